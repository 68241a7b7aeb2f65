"""Regions in blocks, of which those without a valid one are left out: a trained RPN often has far fewer than it may."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

BLOCK = 128  # regions of an image


def in_blocks(function: Callable[[Array, Array], tuple[Array, ...]], boxes: Array, valid: Array) -> tuple[Array, ...]:
    """`function(boxes, valid)`, some regions of every image at a time, in the order in which they come.

    Args:
        function: of boxes `[N, B, 4]` and valid `[N, B]`; gives arrays with the `N * B` regions along their first axis,
            each made of its own region alone.
        boxes, valid: `[N, R, 4]` and `[N, R]`, the valid ones first.

    Returns:
        what it gives, `N * R` regions; zeros in blocks without a valid region.
    """
    n, count = valid.shape
    blocks = -(-count // BLOCK)
    if blocks == 1:
        return function(boxes, valid)
    size = -(-count // blocks)
    pad = blocks * size - count

    def cut(rows: Array) -> Array:
        padded = jnp.pad(rows, ((0, 0), (0, pad), *((0, 0) for _ in rows.shape[2:])))
        return jnp.moveaxis(padded.reshape(n, blocks, size, *rows.shape[2:]), 1, 0)

    def join(rows: Array) -> Array:
        own = jnp.moveaxis(rows.reshape(blocks, n, size, *rows.shape[2:]), 0, 1)
        return own.reshape(n, blocks * size, *rows.shape[2:])[:, :count].reshape(n * count, *rows.shape[2:])

    shapes = jax.eval_shape(function, boxes[:, :size], valid[:, :size])

    def nothing(boxes: Array, valid: Array) -> tuple[Array, ...]:
        return tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes)

    def one(block: tuple[Array, Array]) -> tuple[Array, ...]:
        return jax.lax.cond(block[1].any(), function, nothing, *block)

    return tuple(map(join, jax.lax.map(one, (cut(boxes), cut(valid)))))
