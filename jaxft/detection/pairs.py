"""Pairs of candidates and ground truths, looked at some candidates at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Pairs of one image that are looked at together. All of them would fill the memory: 16 photos of 800 x 1344 have 430
# million at 100 objects each.
PAIRS_AT_ONCE = 2**19


def _at_once(rows: int, others: int) -> int:
    """So many of `rows` are looked at together, each of which meets all of `others`."""
    most = max(PAIRS_AT_ONCE // max(others, 1), 1)
    return min(rows, most - most % 128 if most > 128 else most)


def _cut(arrays: Any, start: Array, count: int) -> Any:
    return jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, start, count), arrays)


def _put(table: Any, part: Any, start: Array) -> Any:
    return jax.tree.map(lambda all, new: jax.lax.dynamic_update_slice_in_dim(all, new, start, 0), table, part)


def by_chunks(function: Callable[..., Any], others: int, *arrays: Array) -> Any:
    """What `function` makes of the rows of `arrays`, row by row, where each meets `others` rows; some at a time."""
    count = arrays[0].shape[0]
    chunk = _at_once(count, others)
    if chunk == count:
        return function(*arrays)

    def step(i: Array, table: Any) -> Any:
        start = jnp.minimum(i * chunk, count - chunk)  # the last chunk may see some rows again
        return _put(table, function(*_cut(arrays, start, chunk)), start)

    table = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(function, *arrays))
    return jax.lax.fori_loop(0, -(-count // chunk), step, table)


class Best(NamedTuple):
    """What is known of candidates `[C]`: the highest overlap and whose it is, and the last ground truth that chose the
    candidate as its own best (-1: none)."""

    overlap: Array
    truth: Array
    chosen_by: Array


class Choice(NamedTuple):
    """Of each ground truth `[G]`: its highest overlap, and the first candidate that has it."""

    overlap: Array
    place: Array


def best_pairs(
    overlaps_of: Callable[[Array, Array], Array],
    boxes: Array,
    valid: Array,
    truths: int,
    *,
    chooses: bool,
    floor: float,
    all_of: bool,
) -> Best:
    """The best ground truth of every candidate, and the candidates that ground truths choose as their best.

    Args:
        overlaps_of: boxes `[C, 4]` and whether they are valid `[C]` -> overlaps `[C, G]`, -1 where there is none.
        chooses: whether ground truths choose; those do that overlap with their best by at least `floor`.
        all_of: whether all candidates of that overlap are chosen, or the first.
    """
    count = boxes.shape[0]
    chunk = _at_once(count, truths)
    chunks = -(-count // chunk)
    rows = jnp.arange(truths, dtype=jnp.int32)[None]

    def look(start: Array) -> tuple[Array, Array]:
        # Compared for equality below: nothing may compute it once more and round differently.
        overlaps = jax.lax.optimization_barrier(overlaps_of(*_cut((boxes, valid), start, chunk)))
        return overlaps, start + jnp.arange(chunk, dtype=jnp.int32)[:, None]

    def choose(overlaps: Array, places: Array, choice: Choice) -> Choice:
        highest = overlaps.max(0)
        first = jnp.where(overlaps == highest[None], places, count).min(0)
        better = highest > choice.overlap
        return Choice(jnp.where(better, highest, choice.overlap), jnp.where(better, first, choice.place))

    def settle(overlaps: Array, places: Array, choice: Choice) -> Best:
        best, by = overlaps.max(1), jnp.full(chunk, -1, jnp.int32)
        truth = jnp.where(overlaps == best[:, None], rows, truths - 1).min(1)
        if chooses:
            chosen = overlaps == choice.overlap[None] if all_of else places == choice.place[None]
            by = jnp.where(chosen & (choice.overlap >= floor)[None], rows, -1).max(1)
        return Best(best, truth, by)

    choice = Choice(jnp.full(truths, -2, boxes.dtype), jnp.zeros(truths, jnp.int32))
    if chunks == 1:
        seen = look(jnp.zeros((), jnp.int32))
        return settle(*seen, choose(*seen, choice))

    def step(i: Array, carry: tuple[Choice, Best]) -> tuple[Choice, Best]:
        choice, table = carry
        start = jnp.minimum(i % chunks * chunk, count - chunk)  # the last chunk may see some candidates again
        seen = look(start)
        if not chooses:
            return choice, _put(table, settle(*seen, choice), start)
        return jax.lax.cond(
            i < chunks,
            lambda: (choose(*seen, choice), table),
            lambda: (choice, _put(table, settle(*seen, choice), start)),
        )

    # What ground truths choose is known after all chunks. So these are seen twice, in one loop, which rounds alike.
    none = jnp.full(count, -1, jnp.int32)
    table = Best(none.astype(boxes.dtype), none, none)
    return jax.lax.fori_loop(0, chunks * (1 + chooses), step, (choice, table))[1]
