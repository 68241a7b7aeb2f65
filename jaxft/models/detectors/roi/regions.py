"""The regions that heads look at: drawn from the proposals for training, and what the maps show in them.

Every image has the same number of regions; the rest is not valid.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.detection.assign import prepend_truth
from jaxft.detection.roi_align import assign_levels, assign_levels_canonical, roi_align
from jaxft.detection.sample import random_sample
from jaxft.models.detectors import objectives
from jaxft.models.detectors.types import Detections, RoIExtractor, RoITrain, Targets


class Regions(NamedTuple):
    """The boxes that a head is trained on, R an image, positives first; rows that are neither are padding.

    Attributes:
        boxes: `[N, R, 4]`.
        positive, negative: `[N, R]`.
        truth: `[N, R]`; the object of each positive row.
        is_truth: `[N, R]`; whether the box is an object's own.
        labels: `[N, R]`; the number of classes where not positive.
    """

    boxes: Array
    positive: Array
    negative: Array
    truth: Array
    is_truth: Array
    labels: Array

    @property
    def used(self) -> Array:
        """Rows that are not padding, `[N, R]`."""
        return self.positive | self.negative


def sampled(
    train: RoITrain, proposals: Detections, targets: Targets, num_classes: int, stream: nnx.RngStream
) -> Regions:
    """A random choice of the proposals, and of the objects' own boxes where the sampler says so."""
    sampler, truth = train.sampler, targets.boxes.astype(proposals.boxes.dtype)

    def assign(boxes: Array, usable: Array, truth: Array, valid: Array, ignored: Array) -> Array:
        assignment = objectives.assign(train.assigner, boxes, usable, truth, valid, ignored)
        return (prepend_truth(assignment, valid) if sampler.add_gt_as_proposals else assignment).index

    index = jax.vmap(assign)(proposals.boxes, proposals.valid, truth, targets.valid, targets.ignored)
    own = truth.shape[1] if sampler.add_gt_as_proposals else 0
    boxes = jnp.concatenate([truth, proposals.boxes], 1) if own else proposals.boxes
    boxes = jax.lax.stop_gradient(boxes)

    def draw(index: Array, priority: Array) -> tuple[Array, Array, Array, Array]:
        sample = random_sample(
            index, priority, num=sampler.num, pos_fraction=sampler.pos_fraction, neg_pos_ub=sampler.neg_pos_ub
        )
        return sample.index, sample.positive, sample.negative, jnp.maximum(index[sample.index], 0)

    place, positive, negative, chosen = jax.vmap(draw)(index, objectives.priorities(stream(), boxes))
    labels = jnp.where(positive, objectives.rows_of(targets.labels, chosen), num_classes)
    # Rows of padding get a box of some size, so that nothing divides by zero.
    somewhere = jnp.asarray([0, 0, 1, 1], boxes.dtype).reshape(1, 1, 4)
    rows = jnp.where((positive | negative)[..., None], objectives.rows_of(boxes, place), somewhere)
    return Regions(rows, positive, negative, chosen, (place < own) & positive, labels)


def extract(extractor: RoIExtractor, maps: Sequence[Array], boxes: Array, used: Array) -> Array:
    """What the maps show in boxes `[N, R, 4]` -> `[N * R, size, size, C]`; zeros where not `used` `[N, R]`."""
    levels, (n, count) = len(extractor.featmap_strides), used.shape
    boxes = boxes.reshape(-1, 4)
    level = assign_levels(boxes, levels, extractor.finest_scale)
    if extractor.canonical_levels:
        level = assign_levels_canonical(boxes, levels, round(math.log2(extractor.featmap_strides[0])))
    return roi_align(
        maps[:levels],
        boxes,
        jnp.repeat(jnp.arange(n, dtype=jnp.int32), count),
        jnp.where(used.reshape(-1), level, -1),
        extractor.featmap_strides,
        extractor.output_size,
        extractor.sampling_ratio,
        extractor.aligned,
    )
