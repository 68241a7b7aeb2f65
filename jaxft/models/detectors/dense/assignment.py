"""Which anchors of a batch count in the losses, and the objects that they are given to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxft.detection.sample import random_sample
from jaxft.models.detectors import objectives
from jaxft.models.detectors.dense.anchors import level_anchors, level_strides, usable_anchors
from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth
from jaxft.models.detectors.types import AnchorGenerator, DenseTrain, Targets


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

    def assign(usable: Array, truth: Array, valid: Array, ignored: Array) -> Array:
        assignment = objectives.assign(train.assigner, anchors, usable, truth, valid, ignored, level_sizes)
        return assignment.index

    boxes = targets.boxes.astype(anchors.dtype)
    index = jax.vmap(assign)(usable, boxes, targets.valid, targets.ignored)
    if train.sampler is None or stream is None:
        return Rows(None, index >= 0, index == -1, jnp.maximum(index, 0))
    sampler = train.sampler
    priority = objectives.priorities(stream(), jnp.broadcast_to(anchors[None], (*index.shape, 4)))

    def draw(index: Array, priority: Array) -> tuple[Array, Array, Array, Array]:
        sample = random_sample(
            index, priority, num=sampler.num, pos_fraction=sampler.pos_fraction, neg_pos_ub=sampler.neg_pos_ub
        )
        return sample.index, sample.positive, sample.negative, jnp.maximum(index[sample.index], 0)

    return Rows(*jax.vmap(draw)(index, priority))


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
    anchors = jnp.asarray(np.concatenate(levels), wide)
    strides = np.repeat([stride for stride, _ in level_strides(generator, outputs.map_sizes, pad_shape)], counts)
    usable = usable_anchors(generator, outputs.map_sizes, pad_shape, sizes, train.allowed_border)
    return anchors, jnp.asarray(strides, wide), assigned_rows(train, anchors, usable, counts, targets, None)
