"""Greedy non-maximum suppression, exact, with a fixed number of rows."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.detection.boxes import area

TILE = 256


def _suppresses(boxes: Array, groups: Array, kept: Array, kept_groups: Array, iou_threshold: float | Array) -> Array:
    """bool `[B, K]`: whether kept box k overlaps box b of the same group by more than the threshold."""
    sides = jnp.minimum(boxes[:, None, 2:], kept[None, :, 2:]) - jnp.maximum(boxes[:, None, :2], kept[None, :, :2])
    overlap = jnp.maximum(sides[..., 0], 0) * jnp.maximum(sides[..., 1], 0)
    union = area(boxes)[:, None] + area(kept)[None] - overlap
    return (
        (overlap > 0)
        & (overlap / jnp.where(overlap > 0, union, 1) > iou_threshold)
        & (groups[:, None] == kept_groups[None])
    )


def nms(
    boxes: Array, scores: Array, groups: Array, valid: Array, iou_threshold: float | Array, max_output: int
) -> tuple[Array, Array]:
    """Greedy NMS per group: the best `max_output` boxes that no better kept box of their group overlaps too much.

    Args:
        boxes: `[N, 4]`.
        scores: `[N]`; of equal ones the first is better.
        groups: int32 `[N]`, classes or levels; boxes of different groups do not suppress each other.
        valid: bool `[N]`.
        iou_threshold: a box goes if its IoU with a kept one is above.

    Returns:
        index int32 `[max_output]` into the boxes, best score first, and valid bool `[max_output]`; the index of a row
        that is not valid is 0.

    Boxes are taken in tiles by score. A tile loses what boxes kept before overlap, then what its own kept boxes
    overlap, which is the only solution of "kept = no better kept box overlaps me" and found by iterating that. The
    loop ends when `max_output` are kept or no valid box is left.
    """
    count = boxes.shape[0]
    tile = min(TILE, count)
    tiles, buffers = -(-count // tile), -(-max_output // tile) + 1
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    order = jnp.concatenate([order, jnp.zeros(tiles * tile - count, order.dtype)])
    total = valid.sum()

    def take(start: Array) -> tuple[Array, Array, Array, Array]:
        rows = jax.lax.dynamic_slice_in_dim(order, start, tile)
        return rows, boxes[rows], groups[rows], start + jnp.arange(tile) < total

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, found, kept = state
        rows, own, own_groups, alive = take(start)

        def earlier(block: Array, alive: Array) -> Array:
            places = jax.lax.dynamic_slice_in_dim(kept, block * tile, tile)
            there = block * tile + jnp.arange(tile) < found
            hit = _suppresses(own, own_groups, boxes[places], groups[places], iou_threshold)
            return alive & ~(hit & there[None]).any(1)

        alive = jax.lax.fori_loop(0, (found + tile - 1) // tile, earlier, alive)
        hit = _suppresses(own, own_groups, own, own_groups, iou_threshold)
        hit &= jnp.arange(tile)[None] < jnp.arange(tile)[:, None]

        def again(pair: tuple[Array, Array]) -> tuple[Array, Array]:
            return pair[1], alive & ~(hit & pair[1][None]).any(1)

        first = again((alive, alive))
        _, alive = jax.lax.while_loop(lambda pair: (pair[0] != pair[1]).any(), again, first)
        # Kept boxes move to the front of the tile; what follows them is overwritten or never read.
        front = jnp.argsort(~alive, stable=True)
        kept = jax.lax.dynamic_update_slice_in_dim(kept, rows[front], found, 0)
        return start + tile, jnp.minimum(found + alive.sum(), max_output), kept

    def goes_on(state: tuple[Array, Array, Array]) -> Array:
        start, found, _ = state
        return (start < total) & (found < max_output)

    zero = jnp.zeros((), total.dtype)
    kept = jnp.zeros(max(buffers, 2) * tile + max_output, order.dtype)
    _, found, kept = jax.lax.while_loop(goes_on, step, (zero, zero, kept))
    there = jnp.arange(max_output) < found
    return jnp.where(there, kept[:max_output], 0).astype(jnp.int32), there
