"""Any classifier of this project as a backbone."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.paths import filled, path_name, values


class Pyramid(nnx.Module):
    """The feature maps of a classifier of this project, at the classifier's own paths, without what they do not need.

    A checkpoint of the classifier fills it with `rename={"": "backbone."}` and `skip` of the head's names.

    Args:
        classifier: a model with `stages(x)`; its layers are taken over.
        outputs: the names of the stages to put out, finest first: `("layer2", "layer3", "layer4")`,
            `("_blocks.4", "_blocks.10", "_blocks.15")`.
        size: of an image that the classifier takes, for a trace that tells which layers are needed.
    """

    def __init__(self, classifier: Any, outputs: tuple[str, ...], *, size: int = 224) -> None:
        self.pyramid_levels, self.pyramid_network = outputs, type(classifier)
        needed = _needed(classifier, outputs, size)
        for name, value in vars(classifier).items():
            if not name.startswith(("_pytree__", "_object__")):
                setattr(self, name, value)
        _drop(self, needed, "")

    def __call__(self, x: Array) -> tuple[Array, ...]:
        """`[N, H, W, 3]` -> one map `[N, H / s, W / s, C]` for each of `outputs`."""
        maps = self.pyramid_network.stages(self, x)
        return tuple(maps[name] for name in self.pyramid_levels)


class Nothing(nnx.Module):
    """Stands where a layer was that nothing depends on; a module, because NNX knows the place as one of a module."""

    def __call__(self, x: Array) -> Array:
        return x


def _needed(classifier: Any, outputs: tuple[str, ...], size: int) -> set[str]:
    """The paths of the arrays that the stages of these names depend on, read off the traced program."""
    shapes = {path: jax.ShapeDtypeStruct(value.shape, value.dtype) for path, value in values(classifier).items()}

    def maps(arrays: dict[str, Array], x: Array) -> list[Array]:
        stages = type(classifier).stages(filled(classifier, arrays), x)
        return [stages[name] for name in outputs]

    closed = jax.make_jaxpr(maps)(shapes, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    used = {id(variable) for variable in closed.jaxpr.outvars}
    for equation in reversed(closed.jaxpr.eqns):
        if any(id(variable) in used for variable in equation.outvars):
            used.update(id(variable) for variable in equation.invars)
    return {path for path, variable in zip(sorted(shapes), closed.jaxpr.invars, strict=False) if id(variable) in used}


def _drop(module: nnx.Module, needed: set[str], prefix: str) -> None:
    for name, value in list(vars(module).items()):
        if isinstance(value, nnx.Module):
            below = f"{prefix}{path_name(name)}."
            if not any(path.startswith(below) for path in needed) and values(value):
                setattr(module, name, Nothing())
            else:
                _drop(value, needed, below)
