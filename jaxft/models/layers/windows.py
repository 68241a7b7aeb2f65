"""How windows move over images: what a convolution and a pooling share."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Shape = tuple[int, ...]


class Window(NamedTuple):
    """How a kernel moves over images: all of a convolution that is not an array."""

    strides: Pair
    padding: Padding
    dilation: Pair
    groups: int


def pad(x: Array, padding: Padding, value: float) -> Array:
    """`x` [N, H, W, C] with a border; a negative width crops."""
    (top, bottom), (left, right) = padding
    return lax.pad(x, jnp.asarray(value, x.dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))


def crop(x: Array, start: Pair, size: Pair) -> Array:
    """The part of `x` [N, H, W, C] of that size that starts there, zero where it reaches outside."""
    (top, left), (height, width) = start, size
    return pad(x, ((-top, top + height - x.shape[1]), (-left, left + width - x.shape[2])), 0)


def interleave(block: list[list[Array]]) -> Array:
    """Images whose pixel (a + rows * h, b + columns * w) is pixel (h, w) of block[a][b]."""
    n, height, width, channels = block[0][0].shape
    stacked = jnp.stack([jnp.stack(row, 3) for row in block], 2)
    return stacked.reshape(n, height * len(block), width * len(block[0]), channels)


def views(x: Array, size: Shape, strides: Pair, dilation: Pair) -> list[Array]:
    """The images as each position of a window sees them, in row-major order: kh * kw arrays [N, H', W', C]."""
    height, width = ((x.shape[1 + i] - (size[i] - 1) * dilation[i] - 1) // strides[i] + 1 for i in range(2))
    return [
        x[:, i : i + (height - 1) * strides[0] + 1 : strides[0], j : j + (width - 1) * strides[1] + 1 : strides[1]]
        for i in range(0, size[0] * dilation[0], dilation[0])
        for j in range(0, size[1] * dilation[1], dilation[1])
    ]
