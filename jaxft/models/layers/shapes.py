"""Sizes along both axes of an image, vectors along the channels, maps as vectors."""

import math

from jax import Array

IntOrPair = int | tuple[int, int]


def pair(size: IntOrPair) -> tuple[int, int]:
    """`3` -> `(3, 3)`; a pair stays as it is."""
    return (size, size) if isinstance(size, int) else size


def along_channels(vector: Array, x: Array) -> Array:
    """`vector` `[C]` with as many axes as `x` `[..., C]`."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def flatten(x: Array) -> Array:
    """`torch.flatten(x, 1)`: `[N, H, W, C]` -> `[N, C * H * W]`, the channels first, as PyTorch has them."""
    ordered = x.transpose(0, 3, 1, 2) if x.ndim == 4 and x.shape[1:3] != (1, 1) else x
    return ordered.reshape(x.shape[0], math.prod(x.shape[1:]))
