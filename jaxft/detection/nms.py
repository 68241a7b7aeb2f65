"""Greedy non-maximum suppression, exact, with a fixed number of rows."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxft.detection.boxes import area

_Hits = Callable[[Array], Array]  # boxes' places `[K]` -> which of a tile's boxes they overlap too much, bool `[B, K]`


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
    overlap. The loop ends when `max_output` are kept or no valid box is left: RoI heads give a box for every class, of
    which few have a score.
    """
    boxes, scores = lax.stop_gradient((boxes, scores))
    cpu, default = (partial(_nms, form, iou_threshold, max_output) for form in (CPU, ACCELERATOR))
    return lax.platform_dependent(boxes, scores, groups, valid, cpu=cpu, default=default)


class Form(NamedTuple):
    """How boxes are suppressed: in tiles of so many, by boxes kept before, and by each other."""

    tile: int
    by_kept: Callable[[_Hits, Array, Array], Array]  # hits, places of kept boxes, how many -> bool [B]
    among: Callable[[Array, Array], Array]  # bool [B, B] whether a better box overlaps one, alive [B] -> alive


def _nms(
    form: Form, iou_threshold: float | Array, max_output: int, boxes: Array, scores: Array, groups: Array, valid: Array
) -> tuple[Array, Array]:
    count, tile = boxes.shape[0], form.tile
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True).astype(jnp.int32)
    order = jnp.pad(order, (0, -count % tile))
    total = valid.sum(dtype=jnp.int32)
    better = jnp.arange(tile)[None] < jnp.arange(tile)[:, None]

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, found, kept = state
        rows = lax.dynamic_slice_in_dim(order, start, tile)
        own, own_groups = boxes[rows], groups[rows]

        def hits(places: Array) -> Array:
            return _suppresses(own, own_groups, boxes[places], groups[places], iou_threshold)

        alive = (start + jnp.arange(tile) < total) & ~form.by_kept(hits, kept, found)
        alive = form.among(hits(rows) & better, alive)
        places = jnp.where(alive, found + jnp.cumsum(alive, dtype=jnp.int32) - 1, kept.shape[0])
        found = jnp.minimum(found + alive.sum(dtype=jnp.int32), max_output)
        return start + tile, found, kept.at[places].set(rows, mode="drop")

    def goes_on(state: tuple[Array, Array, Array]) -> Array:
        start, found, _ = state
        return (start < total) & (found < max_output)

    # A zero made of all inputs: it varies over the devices of a `shard_map` as what the loop returns.
    zero = (0 * (total + order[0] + groups[0]) + (boxes[0, 0] < boxes[0, 0])).astype(jnp.int32)
    _, found, kept = lax.while_loop(goes_on, step, (zero, zero, jnp.full(max_output + -max_output % tile, zero)))
    there = jnp.arange(max_output) < found
    return jnp.where(there, kept[:max_output], 0), there


# CPU: only tiles of kept boxes that there are. Among each other, "alive = no better box that is alive overlaps me" has
# one solution, found by iterating it; mostly a few times.
def _by_kept_tiles(hits: _Hits, kept: Array, found: Array) -> Array:
    tile = CPU.tile

    def block(index: Array, gone: Array) -> Array:
        places = lax.dynamic_slice_in_dim(kept, index * tile, tile)
        there = index * tile + jnp.arange(tile) < found
        return gone | (hits(places) & there[None]).any(1)

    return lax.fori_loop(0, (found + tile - 1) // tile, block, jnp.zeros(tile, bool) & (found < 0))


def _iterated(hit: Array, alive: Array) -> Array:
    def again(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        return pair[1], alive & ~(hit & pair[1][None]).any(1)

    return lax.while_loop(lambda pair: (pair[0] != pair[1]).any(), again, again((alive, alive)))[1]


# Accelerators: all of a tile at once against all boxes kept; among each other in words of 32 boxes, the bits of a word
# one after the other without leaving the registers, then what they suppress of all later words. No number of steps
# depends on the boxes, but the number of tiles.
_WORD = 32


def _by_all_kept(hits: _Hits, kept: Array, found: Array) -> Array:
    return (hits(kept) & (jnp.arange(kept.shape[0]) < found)[None]).any(1)


def _by_words(hit: Array, alive: Array) -> Array:
    suppressed = _packed(hit.T)

    def word(index: Array, alive: Array) -> Array:
        rows = lax.dynamic_slice_in_dim(suppressed, index * _WORD, _WORD)
        own = lax.dynamic_index_in_dim(rows, index, 1, keepdims=False)
        left = lax.dynamic_index_in_dim(alive, index, keepdims=False)
        for bit, others in enumerate(jnp.unstack(own)):
            left &= ~(others * (left >> bit & 1))
        gone = rows * _bits(left)[:, None]
        return alive & ~lax.reduce(gone, np.uint32(0), lax.bitwise_or, (0,))

    return _bits(lax.fori_loop(0, hit.shape[0] // _WORD, word, _packed(alive))).reshape(-1).astype(bool)


def _packed(flags: Array) -> Array:
    """bool `[..., 32 * W]` -> uint32 `[..., W]`, the first flag in the lowest bit."""
    words = flags.reshape(*flags.shape[:-1], -1, _WORD).astype(jnp.uint32)
    return (words << lax.broadcasted_iota(jnp.uint32, words.shape, words.ndim - 1)).sum(-1, dtype=jnp.uint32)


def _bits(words: Array) -> Array:
    """The bits of words `[...]`, lowest first: uint32 `[..., 32]`, 0 or 1."""
    all_bits = jnp.broadcast_to(words[..., None], (*words.shape, _WORD))
    return all_bits >> lax.broadcasted_iota(jnp.uint32, all_bits.shape, words.ndim) & 1


CPU, ACCELERATOR = Form(256, _by_kept_tiles, _iterated), Form(1024, _by_all_kept, _by_words)
