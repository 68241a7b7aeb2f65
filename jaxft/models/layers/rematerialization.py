"""Blocks whose activations are computed once more in the backward pass, in the place of being kept for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from flax import nnx
from jax import Array

_applied: ContextVar[list[str] | None] = ContextVar("rematerializing", default=None)


@contextmanager
def rematerializing(wanted: bool) -> Iterator[list[str]]:
    """Within, what is traced keeps the inputs of its blocks alone, if that is wanted; gives the kinds of the blocks
    that it has met so far."""
    applied = list[str]()
    token = _applied.set(applied if wanted else None)
    try:
        yield applied
    finally:
        _applied.reset(token)


def apply_block(block: Callable[[Array], Array], x: Array) -> Array:
    """`block(x)`, of which a program that rematerializes keeps `x` alone (https://arxiv.org/abs/1604.06174).

    A block is a module made of modules, such as a residual block; what lies within it is a part of it, and single
    layers and functions are merely called.
    """
    applied = _applied.get()
    if applied is None or not is_block(block):
        return block(x)
    applied.append(type(block).__name__)

    def run(block: Any, x: Array) -> Array:
        with rematerializing(False):
            result: Array = block(x)
            return result

    result: Array = nnx.remat(run)(block, x)
    return result


def is_block(layer: object) -> bool:
    """Whether a layer is a module made of modules, and not a mere row of them: a list, or one that says `ROW`. A
    low-rank addition, `lora`, makes none of a layer."""
    single = isinstance(layer, nnx.Module) and not isinstance(layer, nnx.List) and not getattr(layer, "ROW", False)
    parts = vars(layer).items() if single else ()
    return any(isinstance(part, nnx.Module | nnx.List | nnx.Dict) for name, part in parts if name != "lora")
