"""What `walk` sees of a model, and what it refuses: every array has one path, or a person is told."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.errors import UserError
from jaxft.models.paths import filled, modules, values, walk


class Holder(nnx.Module):
    def __init__(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)


def param(size: int = 1) -> nnx.Param:
    return nnx.Param(jnp.zeros(size))


def linear() -> nnx.Linear:
    return nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))


# Containers inside each other in any order, as the user's own models have them.
CONTAINERS = st.recursive(
    st.sampled_from(["param", "stat", "linear", "none", "number", "function"]),
    lambda inner: st.tuples(
        st.sampled_from(["nnx.List", "list", "tuple", "nnx.Dict", "dict", "module"]), st.lists(inner, max_size=3)
    ),
    max_leaves=8,
)


def built(plan: Any) -> Any:
    if isinstance(plan, str):
        made: dict[str, Callable[[], Any]] = {
            "param": param,
            "stat": lambda: nnx.BatchStat(jnp.zeros(2)),
            "linear": linear,
            "none": lambda: None,
            "number": lambda: 3,
            "function": lambda: nnx.relu,
        }
        return made[plan]()
    kind, parts = plan[0], [built(part) for part in plan[1]]
    named = {f"part{index}": part for index, part in enumerate(parts)}
    containers: dict[str, Callable[[], Any]] = {
        "nnx.List": lambda: nnx.List([nnx.data(part) for part in parts]),
        "list": lambda: parts,
        "tuple": lambda: tuple(parts),
        "nnx.Dict": lambda: nnx.Dict({name: nnx.data(part) for name, part in named.items()}),
        "dict": lambda: named,
        "module": lambda: Holder(**{name: nnx.data(part) for name, part in named.items()}),
    }
    return containers[kind]()


@settings(max_examples=200, deadline=None)
@given(CONTAINERS)
def test_walk_sees_every_variable_that_flax_sees(plan: Any) -> None:
    model = Holder(inside=nnx.data(built(plan)))
    places = list(walk(model))
    seen = {id(place.variable) for place in places}
    flax = {id(node) for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Param | nnx.BatchStat)}
    assert seen == flax
    assert len({place.path for place in places}) == len(places)
    arrays = {path: jnp.full(value.shape, 1.0 + index) for index, (path, value) in enumerate(values(model).items())}
    copy = filled(model, arrays)
    assert {path: float(value[(0,) * value.ndim]) for path, value in values(copy).items()} == {
        path: 1.0 + index for index, path in enumerate(arrays)
    }
    assert all(float(jnp.sum(value)) == 0 for path, value in values(model).items() if "kernel" not in path)


def test_paths_are_those_of_pytorch() -> None:
    model = Holder(
        blocks=nnx.data([linear(), {"inner": linear(), "scales": (param(), param())}]),
        features_=nnx.Dict(conv=linear()),
        head=nnx.Sequential(linear(), nnx.relu, linear()),
    )
    assert set(values(model)) == {
        "blocks.0.kernel",
        "blocks.1.inner.kernel",
        "blocks.1.scales.0",
        "blocks.1.scales.1",
        "features.conv.kernel",
        "head.layers.0.kernel",
        "head.layers.2.kernel",
    }
    owners = {place.path: (type(place.owner).__name__, place.name) for place in walk(model)}
    assert owners["blocks.1.scales.0"] == ("Holder", "0")
    assert owners["blocks.0.kernel"] == ("Linear", "kernel")
    found = {path: type(module).__name__ for path, module in modules(model)}
    assert found[""] == "Holder"
    assert found["blocks.1.inner"] == "Linear"
    assert found["head"] == "Sequential"


@jax.tree_util.register_dataclass
@dataclass
class Pair:
    """A container that JAX knows and this project does not."""

    one: Any
    other: Any


class Plain:
    """An object that neither knows."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside


def closed_over(layer: nnx.Linear) -> Callable[[Any], Any]:
    return lambda x: layer(x)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda: nnx.Cache(jnp.zeros(1)), "Cache"),
        (lambda: nnx.Variable(jnp.zeros(1)), "Variable"),
        (lambda: nnx.data(Pair(param(), None)), "Pair"),
        (lambda: Plain(param()), "Plain"),
        (lambda: Plain(linear()), "Plain"),
        (lambda: partial(linear(), jnp.zeros((1, 1))), "partial"),
        (lambda: linear().__call__, "method"),
        (lambda: closed_over(linear()), "function"),
    ],
    ids=["cache", "variable", "tree", "object", "object of modules", "partial", "method", "closure"],
)
def test_what_has_no_path_is_refused_by_name(value: Callable[[], Any], kind: str) -> None:
    model = Holder(deep=nnx.data([Holder(odd=value())]))
    with pytest.raises(UserError, match=rf"^deep\.0\.odd of the model is a {kind}, whose arrays jaxft does not see"):
        list(walk(model))
    with pytest.raises(UserError, match=r"^deep\.0\.odd"):
        list(modules(model))


def test_what_passes_is_not_refused() -> None:
    model = Holder(drop=nnx.Dropout(0.5, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0), table=jnp.zeros(3), seen=np.zeros(2))
    model.middle = nnx.Intermediate((jnp.zeros(1),))
    assert values(model) == {}


def test_two_arrays_of_one_path_are_refused() -> None:
    model = Holder(part_=Holder(weight=param()), part=Holder(weight=param()))
    with pytest.raises(UserError, match=r"Two arrays of the Holder have the path part\.weight"):
        values(model)
    with pytest.raises(UserError, match=r"the path a\.b\.kernel"):
        values(Holder(a=nnx.data({"b.kernel": param(), "b": {"kernel": param()}})))


def test_a_module_inside_itself_is_refused() -> None:
    model = Holder(child=Holder(weight=param()))
    model.child.parent = model
    with pytest.raises(UserError, match=r"child\.parent of the model is a part that it lies in itself"):
        values(model)
