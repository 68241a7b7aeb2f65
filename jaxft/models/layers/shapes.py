"""Sizes along both axes of an image, and vectors along the channels."""

from jax import Array

IntOrPair = int | tuple[int, int]


def pair(size: IntOrPair) -> tuple[int, int]:
    """`3` -> `(3, 3)`; a pair stays as it is."""
    return (size, size) if isinstance(size, int) else size


def along_channels(vector: Array, x: Array) -> Array:
    """`vector` `[C]` with as many axes as `x` `[..., C]`."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
