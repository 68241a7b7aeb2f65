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
from jaxft.models.detectors import objectives
from jaxft.models.detectors.types import Detections, RoIExtractor, RoITrain, Targets
from jaxft.models.layers.per_image import per_image


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

    own = truth.shape[1] if sampler.add_gt_as_proposals else 0
    boxes = jnp.concatenate([truth, proposals.boxes], 1) if own else proposals.boxes
    boxes = jax.lax.stop_gradient(boxes)

    def draw(
        boxes: Array, usable: Array, truth: Array, valid: Array, ignored: Array, priority: Array
    ) -> tuple[Array, Array, Array, Array]:
        assignment = objectives.assign(train.assigner, boxes, usable, truth, valid, ignored)
        index = (prepend_truth(assignment, valid) if own else assignment).index
        sample = objectives.drawn(sampler, index, priority)
        return sample.index, sample.positive, sample.negative, jnp.maximum(index[sample.index], 0)

    priority = objectives.priorities(stream(), boxes)
    place, positive, negative, chosen = per_image(
        jax.vmap(draw), proposals.boxes, proposals.valid, truth, targets.valid, targets.ignored, priority
    )
    labels = jnp.where(positive, objectives.rows_of(targets.labels, chosen), num_classes)
    # Rows of padding get a box of some size, so that nothing divides by zero.
    somewhere = jnp.asarray([0, 0, 1, 1], boxes.dtype).reshape(1, 1, 4)
    rows = jnp.where((positive | negative)[..., None], objectives.rows_of(boxes, place), somewhere)
    return Regions(rows, positive, negative, chosen, (place < own) & positive, labels)


def extract(extractor: RoIExtractor, maps: Sequence[Array], boxes: Array, used: Array) -> Array:
    """What the maps show in boxes `[N, R, 4]` -> `[N * R, size, size, C]`; zeros where not `used` `[N, R]`."""
    levels = len(extractor.featmap_strides)

    def read(maps: Sequence[Array], boxes: Array, used: Array) -> Array:
        (n, count), boxes = used.shape, boxes.reshape(-1, 4)
        level = assign_levels(boxes, levels, extractor.finest_scale)
        if extractor.canonical_levels:
            level = assign_levels_canonical(boxes, levels, round(math.log2(extractor.featmap_strides[0])))
        return roi_align(
            maps,
            boxes,
            jnp.repeat(jnp.arange(n, dtype=jnp.int32), count),
            jnp.where(used.reshape(-1), level, -1),
            extractor.featmap_strides,
            extractor.output_size,
            extractor.sampling_ratio,
            extractor.aligned,
        )

    return per_image(read, maps[:levels], boxes, used)
