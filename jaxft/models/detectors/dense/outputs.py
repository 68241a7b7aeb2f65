"""The raw maps of a dense head, and their channels."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxft.models.detectors.types import ClassLoss

HeightWidth = tuple[int, int]


class DenseOutputs(NamedTuple):
    """The raw maps of a dense head, `[N, h, w, anchors * channels]` each, finest level first."""

    scores: tuple[Array, ...]
    boxes: tuple[Array, ...]
    centerness: tuple[Array, ...] = ()

    @property
    def map_sizes(self) -> list[HeightWidth]:
        """Height and width of each level."""
        return [(x.shape[1], x.shape[2]) for x in self.scores]


def class_channels(loss: ClassLoss, num_classes: int) -> int:
    """Logits that a head puts out for each anchor."""
    return num_classes if loss.use_sigmoid else num_classes + 1


def flat(maps: Sequence[Array], width: int) -> Array:
    """Maps `[N, h, w, A * width]` of all levels -> rows `[N, A of all, width]`, in float32 or wider."""
    rows = [x.reshape(x.shape[0], -1, width) for x in maps]
    joined = jnp.concatenate(rows, 1) if len(rows) > 1 else rows[0]
    return joined.astype(jnp.promote_types(joined.dtype, jnp.float32))


def of_level(values: Sequence[float] | Sequence[tuple[float, ...]], levels: Sequence[Array], dtype: jnp.dtype) -> Array:
    """`values`, one a level, for each row of all `levels`, one after another: `[K, ...]`."""
    rows = [
        jnp.broadcast_to(value, (len(level), *value.shape))
        for value, level in zip((jnp.asarray(value, dtype) for value in values), levels, strict=True)
    ]
    return jnp.concatenate(rows)
