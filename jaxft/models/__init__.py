"""Classifiers and detectors, one file a family, and the one place where a name becomes a model."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from jaxft.errors import UserError
from jaxft.models.classifiers import FAMILIES
from jaxft.models.detectors import FAMILIES as DETECTOR_FAMILIES
from jaxft.models.edited import edited
from jaxft.models.paths import values
from jaxft.models.streams import QUICK, initial_rngs

DETECTORS: dict[str, Callable[..., nnx.Module]] = {
    builder.__name__: builder for family in DETECTOR_FAMILIES for builder in family.PRESETS
}
BUILDERS: dict[str, Callable[..., nnx.Module]] = {
    builder.__name__: builder for family in FAMILIES for builder in family.PRESETS
} | DETECTORS
MADE = "made"  # the attribute of a model that says how it was made by name
HEAD = "@head"  # as a pattern: the class-dependent layers, whatever a family calls them


@dataclass(frozen=True)
class Made:
    """How a model was made by name.

    Attributes:
        weights: which of torchvision's published weights it was filled with, `NAME/WEIGHTS`; empty where it was not.
    """

    name: str
    num_classes: int | None
    options: tuple[tuple[str, Any], ...] = ()
    weights: str = ""

    def abstract(self, num_classes: int) -> nnx.Module:
        """The same model for another number of classes, as shapes and types."""
        return abstract_model(self.name, num_classes, **dict(self.options))


def builder(name: str) -> Callable[..., nnx.Module]:
    """The function that makes a model of a name from its number of classes, `rngs` and options.

    Raises:
        UserError: the name is not known; the nearest ones are given.
    """
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, BUILDERS, n=3) or sorted(BUILDERS)
        raise UserError(f"There is no model named {name!r}; the nearest names are {', '.join(near)}.")
    return BUILDERS[name]


def check_options(name: str, options: Collection[str]) -> None:
    """Looks whether there is a model of a name that takes these options.

    Raises:
        UserError: the name is not known, or the builder has no such option.
    """
    known = inspect.signature(builder(name)).parameters.keys() - {"num_classes", "rngs"}
    if unknown := set(options) - known:
        raise UserError(
            f"{name} has no option {', '.join(sorted(unknown))}; it has {', '.join(sorted(known)) or 'none'}."
        )


def abstract_model(name: str, num_classes: int | None = None, **options: Any) -> nnx.Module:
    """A model of shapes and types alone, to be filled by `converters.load_pretrained` and `initialize_missing`.

    Arguments are those of `create_model`.

    Raises:
        UserError: the name is not known, or the builder has no such option.
    """
    check_options(name, options)
    return nnx.eval_shape(lambda: _build(name, num_classes, initial_rngs(0), options))


def _build(name: str, num_classes: int | None, rngs: nnx.Rngs, options: dict[str, Any]) -> nnx.Module:
    classes = {} if num_classes is None else {"num_classes": num_classes}
    model = BUILDERS[name](**classes, rngs=rngs, **options)
    hashable = {option: tuple(value) if isinstance(value, list) else value for option, value in options.items()}
    setattr(model, MADE, Made(name, num_classes, tuple(sorted(hashable.items()))))
    return model


def initialize_missing(model: nnx.Module, build: Callable[[], nnx.Module]) -> None:
    """Draws what is still abstract in `model`, in place, and only that: the values that `build()` would give it.

    One compiled program draws all of it, and nothing that a checkpoint has filled already is computed.
    """
    variables = dict(nnx.to_flat_state(nnx.state(model)))
    missing = {path for path, variable in variables.items() if isinstance(variable.get_value(), jax.ShapeDtypeStruct)}

    @partial(jax.jit, compiler_options=QUICK)
    def draw() -> dict[tuple, jax.Array]:
        drawn = nnx.to_flat_state(nnx.state(build()))
        return {path: variable.get_value() for path, variable in drawn if path in missing}

    for path, value in draw().items():
        variables[path].set_value(value)
    nnx.update(model, nnx.from_flat_state(variables))


def initial_values(
    build: Callable[[Array], nnx.Module],
    key: np.ndarray,
    paths: Collection[str],
    sharding: Callable[[Sequence[int]], jax.sharding.Sharding],
    compiled: Callable[[jax.stages.Lowered], Callable] = jax.stages.Lowered.compile,
) -> dict[str, jax.Array]:
    """The parameters and statistics at dotted paths as `build(key)` draws them, and nothing else of it.

    Args:
        key: the data of a random key; an input of the program, so that another seed compiles nothing.
        sharding: says of a shape where the array lies; each device makes its own part.
        compiled: compiles the program that draws them.
    """
    if not paths:
        return {}

    def draw(key: Array) -> dict[str, Array]:
        drawn = values(build(key))
        return {path: drawn[path] for path in sorted(paths)}

    shardings = {path: sharding(leaf.shape) for path, leaf in jax.eval_shape(draw, key).items()}
    return compiled(jax.jit(draw, out_shardings=shardings, compiler_options=QUICK).lower(key))(key)


def class_layers(build: Callable[[int], nnx.Module]) -> tuple[str, ...]:
    """The paths of the class-dependent layers of the models that `build(number of classes)` makes.

    They are what changes with that number, whatever a family calls it; more than one where there are auxiliary heads.
    """
    two, three = ({path: value.shape for path, value in values(build(classes)).items()} for classes in (2, 3))
    return tuple(dict.fromkeys(path.rpartition(".")[0] for path in two if two[path] != three[path]))


def with_head(patterns: Iterable[str], build: Callable[[int], nnx.Module]) -> tuple[str, ...]:
    """The patterns with the paths of `class_layers(build)` in the place of `@head`."""
    return tuple(name for pattern in patterns for name in (class_layers(build) if pattern == HEAD else (pattern,)))


def made(model: nnx.Module) -> Made | None:
    """How a model was made by name; None of others."""
    found = getattr(model, MADE, None)
    return found if isinstance(found, Made) else None


def head_of(model: nnx.Module) -> tuple[str, ...]:
    """The paths of the class-dependent layers of a model that was made by name.

    Raises:
        UserError: the model was not, or it was edited so that no such layer is left.
    """
    how = made(model)
    if how is None:
        raise UserError(
            f"{HEAD} stands for the layers that change with the number of classes, which are known of models that "
            f"jaxft.create_model made; name those of this {type(model).__name__} by their paths."
        )
    record = edited(model)
    if record is None:
        return class_layers(how.abstract)
    found = class_layers(lambda classes: record.again(how.abstract(classes), classes))
    if not found:
        raise UserError(
            f"{HEAD} stands for the layers that change with the number of classes, but the edits of this "
            f"{type(model).__name__} leave none; let the last Linear have no out_features, or name the layers by their "
            "paths."
        )
    return found


def create_model(
    name: str, num_classes: int | None = None, *, rngs: nnx.Rngs | None = None, **options: Any
) -> nnx.Module:
    """A freshly initialized model.

    Args:
        name: one of `list_models()`.
        num_classes: the number of classes; as many as its published weights where it is None.
        rngs: where initial values and dropout draw from; seed 0 where it is None.
        options: further arguments of the family's builder (`dropout`, ...).

    Returns:
        A classifier, which maps normalized float images `[N, H, W, 3]` to logits `[N, num_classes]`;
        `model.features(x)` gives the pooled features before the last linear layer. Or a detector (see
        `jaxft.models.detectors.detector`): `model.predict(images, sizes)` gives boxes, scores and labels.

    Raises:
        UserError: the name is not known, or the builder has no such option.
    """
    abstract_model(name, num_classes, **options)
    return _build(name, num_classes, rngs or nnx.Rngs(0), options)


def list_models(task: str | None = None) -> list[str]:
    """The names that `create_model` knows, sorted; `task` is `"classification"`, `"detection"` or None for all."""
    tasks = {"classification": BUILDERS.keys() - DETECTORS.keys(), "detection": DETECTORS, None: BUILDERS}
    return sorted(tasks.get(task, ()))
