"""Rules of `jaxft.initialization` against live MMEngine on the same PyTorch model."""

import copy
import warnings
from functools import cache
from typing import Any

import jax
import numpy as np
import pydantic
import pytest
from flax import nnx

from converters.rules import leaves
from jaxft.errors import UserError
from jaxft.fields import explain
from jaxft.initialization import Constant, Initialize, Normal, Override
from jaxft.initialization.drawing import draws, initialize
from jaxft.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    GroupNorm,
    LayerNorm,
    Linear,
    LinearOverMap,
    Scale,
    Sequential,
)
from jaxft.models.paths import filled, values
from jaxft.models.streams import QUICK
from tests.distributions import check_alike

torch = pytest.importorskip("torch")
pytest.importorskip("mmengine")

RULES = pydantic.TypeAdapter(tuple[Initialize, ...])


class Net(nnx.Module):
    """A layer of every kind, and two parts of several."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.conv = Conv(16, 48, 3, rngs=rngs)
        self.grouped = Conv(32, 64, 5, groups=4, rngs=rngs)
        self.up = ConvTranspose(48, 16, 2, rngs=rngs)
        self.flat = LinearOverMap((3, 5, 16), 24, rngs=rngs)
        self.fc = Linear(96, 32, rngs=rngs)
        self.bn, self.gn, self.ln, self.scale = BatchNorm(32), GroupNorm(4, 32), LayerNorm(32), Scale()
        self.part = Sequential([Conv(16, 64, (1, 3), rngs=rngs), nnx.relu, Linear(48, 32, rngs=rngs)])
        self.block = Sequential([Conv(8, 16, 3, rngs=rngs), BatchNorm(16)])


def their_net() -> Any:
    nn = torch.nn
    net = nn.Module()
    net.conv, net.grouped = nn.Conv2d(16, 48, 3), nn.Conv2d(32, 64, 5, groups=4)
    net.up, net.flat, net.fc = nn.ConvTranspose2d(48, 16, 2, 2), nn.Linear(240, 24), nn.Linear(96, 32)
    net.bn, net.gn, net.ln = nn.BatchNorm2d(32), nn.GroupNorm(4, 32), nn.LayerNorm(32)
    net.scale = nn.Module()
    net.scale.scale = nn.Parameter(torch.tensor(1.0))
    net.part = nn.Sequential(nn.Conv2d(16, 64, (1, 3)), nn.ReLU(), nn.Linear(48, 32))
    net.block = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16))
    return net


@cache
def abstract() -> nnx.Module:
    return nnx.eval_shape(lambda: Net(rngs=nnx.Rngs(0)))


@cache
def base() -> dict[str, Any]:
    return jax.jit(lambda: values(Net(rngs=nnx.Rngs(7))), compiler_options=QUICK)()


def drawn(rules: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """The net's arrays after the rules, by path."""
    read = RULES.validate_python(rules if isinstance(rules, list | tuple) else [rules])
    net = filled(abstract(), base())
    initialize(net, read, jax.random.key(seed))
    return {path: np.asarray(array) for path, array in values(net).items()}


def in_torch(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    net = filled(abstract(), arrays)  # type: ignore[arg-type]
    return {leaf.key: leaf.to_torch(np.asarray(leaf.variable[...])) for leaf in leaves(net)}


ALL = ["Conv2d", "ConvTranspose2d", "Linear"]
CASES: dict[str, Any] = {
    "constant": {"type": "Constant", "val": 0.3, "bias": -2, "layer": [*ALL, "_BatchNorm", "GroupNorm", "LayerNorm"]},
    "xavier-normal": {"type": "Xavier", "gain": 1.7, "layer": ALL},
    "xavier-uniform": {"type": "Xavier", "distribution": "uniform", "bias": 0.5, "layer": ALL},
    "normal": {"type": "Normal", "mean": 0.2, "std": 0.01, "bias_prob": 0.01, "layer": [*ALL, "BatchNorm2d"]},
    "normal-default": {"type": "Normal", "layer": "Linear"},
    "truncated": {"type": "TruncNormal", "std": 0.5, "a": -0.4, "b": 1.0, "layer": [*ALL, "GroupNorm"]},
    "truncated-aside": {"type": "TruncNormal", "mean": 1, "std": 0.5, "a": 0.2, "b": 1.1, "layer": ALL},
    "truncated-far": {"type": "TruncNormal", "std": 0.02, "layer": "Linear"},
    "uniform": {"type": "Uniform", "a": -0.2, "b": 0.7, "layer": [*ALL, "LayerNorm"]},
    "uniform-default": {"type": "Uniform", "layer": "Conv2d"},
    "kaiming-default": {"type": "Kaiming", "layer": ALL},
    "kaiming-uniform": {"type": "Kaiming", "mode": "fan_in", "distribution": "uniform", "layer": ALL},
    "kaiming-leaky": {"type": "Kaiming", "a": 0.7, "nonlinearity": "leaky_relu", "layer": ALL},
    "kaiming-tanh": {"type": "Kaiming", "nonlinearity": "tanh", "mode": "fan_in", "bias_prob": 0.3, "layer": "Conv2d"},
    "kaiming-selu": {"type": "Kaiming", "nonlinearity": "selu", "a": 2, "layer": "Linear"},
    "kaiming-linear": {"type": "Kaiming", "nonlinearity": "linear", "layer": "ConvTranspose2d"},
    "caffe2": {"type": "Caffe2Xavier", "bias": 1, "layer": ALL},
    "list": [
        {"type": "Kaiming", "layer": "Conv2d"},
        {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]},
        {"type": "Normal", "std": 0.02, "layer": "Linear"},
        {"type": "Uniform", "layer": "Linear", "override": {"name": "part"}},
    ],
    "override-of-its-own": {
        "type": "Normal",
        "std": 0.01,
        "layer": "Conv2d",
        "override": {"type": "Xavier", "name": "part", "bias_prob": 0.2},
    },
    "override-as-outside": {"type": "Uniform", "b": 3, "bias": 4, "layer": "Linear", "override": {"name": "grouped"}},
    "override-alone": {"type": "Normal", "std": 5, "override": [{"name": "fc"}, {"name": "block"}]},
    "overrides": {
        "type": "Kaiming",
        "layer": ["Conv2d"],
        "override": [{"type": "Constant", "val": 0, "name": "block"}, {"name": "part"}, {"name": "scale"}],
    },
    "nowhere": {"type": "Constant", "val": 9},
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_draws_what_mmengine_draws(name: str) -> None:
    from mmengine.model.weight_init import initialize as theirs

    torch.manual_seed(0)
    net = their_net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, where the mean is far from the range
        theirs(net, copy.deepcopy(CASES[name]))
    wanted = {key: tensor.detach().numpy() for key, tensor in net.state_dict().items()}
    found = in_torch(drawn(CASES[name]))
    assert found.keys() == wanted.keys()
    for key in wanted:
        check_alike(key, found[key], wanted[key])


def test_values_depend_on_the_seed_and_the_path_alone() -> None:
    one, other = {"type": "Normal", "layer": "Conv2d"}, {"type": "Uniform", "layer": ["Linear", "LayerNorm"]}
    first, again, turned, another = drawn([one, other]), drawn([one, other]), drawn([other, one]), drawn(one, seed=1)
    for path, array in first.items():
        np.testing.assert_array_equal(array, again[path])
        np.testing.assert_array_equal(array, turned[path])
    assert (first["conv.kernel"] != another["conv.kernel"]).all()
    twins = drawn({"type": "Normal", "layer": ["_BatchNorm", "GroupNorm"]})
    assert (twins["bn.scale"] != twins["gn.scale"]).all()


def test_what_a_rule_draws_is_known_before_it_is_drawn() -> None:
    rules = RULES.validate_python(CASES["list"])
    found = draws(abstract(), rules)
    assert found["part.0.kernel"].rule == 3
    assert found["fc.kernel"].how == rules[3].how
    assert "up.kernel" not in found
    assert "bn.mean" not in found


def test_a_standardized_convolution_has_a_name_of_its_own() -> None:
    net = Net(rngs=nnx.Rngs(0))
    net.conv.standardized = True
    only = draws(net, RULES.validate_python([{"type": "Normal", "layer": "ConvWS2d"}]))
    assert set(only) == {"conv.kernel", "conv.bias"}
    assert "conv.kernel" in draws(net, RULES.validate_python([{"type": "Normal", "layer": "Conv2d"}]))


def test_a_rule_is_written_as_in_mmengine_or_with_its_classes() -> None:
    ours = Initialize(
        how=Normal(std=0.01), layer=("Conv2d",), override=(Override(name="fc", how=Constant(val=0, bias_prob=0.1)),)
    )
    (read,) = RULES.validate_python(
        [
            {
                "type": "Normal",
                "std": 0.01,
                "layer": "Conv2d",
                "override": {"type": "Constant", "name": "fc", "val": 0, "bias_prob": 0.1},
            }
        ]
    )
    assert read == ours
    assert Initialize(how=ours.how, layer="Conv2d", override=ours.override[0]) == ours  # type: ignore[arg-type]
    assert RULES.validate_json(RULES.dump_json((ours,))) == (ours,)
    assert RULES.validate_python([{"type": "Normal", "override": {"name": "fc"}}])[0].override[0].how is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"layer": "Conv2d"}, "an initialiser needs a type"),
        ({"type": "Orthogonal"}, "does not match any of the expected tags"),
        (
            {"type": "Normal", "layer": "Conv9d"},
            "'Conv9d' is no kind of layer that jaxft's models have; they have Conv2d",
        ),
        ({"type": "Normal", "override": {"type": "Normal", "std": 2}}, "an override needs a name"),
        ({"type": "Normal", "override": {}}, "an override needs a name"),
        ({"type": "Normal", "override": {"name": "fc", "std": 2}}, "the override of 'fc' gives std without a type"),
        ({"type": "Normal", "override": "fc"}, "override"),
        ({"type": "Normal", "gain": 2}, "unknown field .*gain"),
        ({"type": "Normal", "override": {"type": "Normal", "name": "fc", "layer": "Linear"}}, "layer"),
        ({"type": "Constant"}, "val"),
        ({"type": "Normal", "bias_prob": 1.0}, "less than 1"),
        ({"type": "Xavier", "distribution": "cauchy"}, "distribution"),
        ({"type": "Kaiming", "mode": "fan"}, "mode"),
        ({"type": "Uniform", "a": 2}, "a must not be larger than b, but a is 2.0 and b is 1.0"),
        ({"type": "Pretrained"}, "checkpoint"),
        ({"type": "Pretrained", "checkpoint": "a.pth", "layer": "Linear"}, "takes no layer and no override"),
        (
            {"type": "Normal", "override": {"type": "Pretrained", "name": "fc", "checkpoint": "a.pth"}},
            "cannot be of the type Pretrained",
        ),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError) as error:
        RULES.validate_python([rule])
    told = explain(error.value, {})
    assert "\n" not in told
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(told)


def test_a_rule_that_does_not_fit_the_model_is_refused() -> None:
    for rule, message in (
        (
            {"type": "Normal", "override": {"name": "head"}},
            "override names 'head', which the Net lacks; its parts are block, bn",
        ),
        ({"type": "Normal", "override": {"name": "fc.kernel"}}, "override names 'fc.kernel', which the Net lacks"),
        ({"type": "Xavier", "layer": "_BatchNorm"}, "Xavier needs the fans of a kernel, but block.1.scale"),
        (
            {"type": "Kaiming", "override": {"name": "block"}},
            r"Kaiming needs the fans of a kernel, but block\.1\.scale",
        ),
    ):
        with pytest.raises(UserError, match=message):
            draws(abstract(), RULES.validate_python([rule]))
