"""Blocks whose activations are computed once more in the backward pass, in the place of being kept for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from flax import nnx
from jax import Array

_wanted: ContextVar[bool] = ContextVar("rematerializing", default=False)


@contextmanager
def rematerializing(wanted: bool) -> Iterator[None]:
    """Within, what is traced keeps the inputs of its blocks alone, if that is wanted."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def apply_block(block: Callable[[Array], Array], x: Array) -> Array:
    """`block(x)`, of which a program that rematerializes keeps `x` alone (https://arxiv.org/abs/1604.06174).

    A block is a module made of modules, such as a residual block; what lies within it is a part of it, and single
    layers and functions are merely called.
    """
    if not _wanted.get() or not _is_block(block):
        return block(x)

    def run(block: Any, x: Array) -> Array:
        with rematerializing(False):
            result: Array = block(x)
            return result

    result: Array = nnx.remat(run)(block, x)
    return result


def _is_block(layer: object) -> bool:
    single = isinstance(layer, nnx.Module) and not isinstance(layer, nnx.List)  # the latter is a row of blocks
    parts = vars(layer).values() if single else ()
    return any(isinstance(part, nnx.Module | nnx.List | nnx.Dict) for part in parts)
