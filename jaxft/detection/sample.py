"""A fixed number of candidates drawn for the loss, positive and negative."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.detection.assign import BACKGROUND


class Sample(NamedTuple):
    """index: int32 `[num]`, rows of the candidates. positive, negative: bool `[num]`; positives come first, then
    negatives; where both are False the row is padding (its index is 0)."""

    index: Array  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    positive: Array
    negative: Array


def random_sample(index: Array, priority: Array, *, num: int, pos_fraction: float, neg_pos_ub: float = -1) -> Sample:
    """`num` candidates of an assignment, MMDetection's `RandomSampler` and torchvision's balanced sampler.

    At most int(num * pos_fraction) positives; negatives fill up to `num`, or to `neg_pos_ub` times the positives
    (at least 1) where that is not negative.

    Args:
        index: int32 `[A]`, `Assignment.index`.
        priority: float `[A]`, for example uniform noise; the lowest are taken.
    """
    rows = min(num, index.shape[0])
    positives = min(int(num * pos_fraction), rows)

    def first(of: Array, count: int) -> tuple[Array, Array]:
        _, row = jax.lax.top_k(jnp.where(of, -priority, -jnp.inf), count)
        return row, jnp.minimum(of.sum(), count)

    negative, available = first(index == BACKGROUND, rows)
    positive, taken = first(index >= 0, positives) if positives else (negative[:1], jnp.zeros((), jnp.int32))
    room = num - taken
    if neg_pos_ub >= 0:
        room = jnp.minimum(room, (neg_pos_ub * jnp.maximum(taken, 1)).astype(room.dtype))
    end = taken + jnp.minimum(available, room)
    row = jnp.arange(num)
    is_positive, is_negative = row < taken, (row >= taken) & (row < end)
    chosen = jnp.where(
        is_positive,
        positive[jnp.minimum(row, positive.shape[0] - 1)],
        negative[jnp.clip(row - taken, 0, rows - 1)],
    )
    return Sample(jnp.where(row < end, chosen, 0).astype(jnp.int32), is_positive, is_negative)
