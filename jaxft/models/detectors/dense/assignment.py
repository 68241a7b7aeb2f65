"""Which anchors of a batch count in the losses, and the objects that they are given to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.detectors import objectives
from jaxft.models.detectors.dense.anchors import level_anchors, level_strides, usable_anchors
from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth, of_level
from jaxft.models.detectors.types import AnchorGenerator, DenseTrain, Targets
from jaxft.models.layers.per_image import per_image


class Rows(NamedTuple):
    """The anchors of a batch that count in the losses, `[N, R]` each.

    `place` among all anchors; None where the rows are all of them. `truth` is the object of a positive row.
    """

    place: Array | None
    positive: Array
    negative: Array
    truth: Array


def assigned_rows(
    train: DenseTrain,
    anchors: Array,
    usable: Array,
    level_sizes: tuple[int, ...],
    targets: Targets,
    stream: nnx.RngStream | None,
) -> Rows:
    """Anchors `[A, 4]` given to the objects of each image, all of them, or a random choice where there is a sampler."""

    sampler = train.sampler if stream is not None else None

    def one(usable: Array, truth: Array, valid: Array, ignored: Array, priority: Array | None) -> Rows:
        index = objectives.assign(train.assigner, anchors, usable, truth, valid, ignored, level_sizes).index
        if sampler is None or priority is None:
            return Rows(None, index >= 0, index == -1, jnp.maximum(index, 0))
        sample = objectives.drawn(sampler, index, priority)
        return Rows(sample.index, sample.positive, sample.negative, jnp.maximum(index[sample.index], 0))

    boxes, priority = targets.boxes.astype(anchors.dtype), None
    if sampler is not None and stream is not None:
        priority = objectives.priorities(stream(), jnp.broadcast_to(anchors[None], (*usable.shape, 4)))
    return per_image(jax.vmap(one), usable, boxes, targets.valid, targets.ignored, priority)


def dense_rows(
    generator: AnchorGenerator,
    train: DenseTrain,
    outputs: DenseOutputs,
    sizes: Array,
    pad_shape: HeightWidth,
    targets: Targets,
) -> tuple[Array, Array, Rows]:
    """All anchors `[A, 4]`, the stride of each `[A]`, and the objects that they are given to."""
    levels = level_anchors(generator, outputs.map_sizes, pad_shape)
    counts = tuple(map(len, levels))
    wide = jnp.promote_types(outputs.boxes[0].dtype, jnp.float32)
    anchors = jnp.concatenate(levels).astype(wide)
    steps = [stride for stride, _ in level_strides(generator, outputs.map_sizes, pad_shape)]
    strides = of_level(steps, levels, wide)
    usable = usable_anchors(generator, outputs.map_sizes, pad_shape, sizes, train.allowed_border)
    return anchors, strides, assigned_rows(train, anchors, usable, counts, targets, None)
