"""The best boxes of a dense head, before and after non-maximum suppression.

A photo has the candidates that it has alone, padded to multiples of 32 as MMDetection's and torchvision's own tests do
it: cells in the padding beyond that are none, so that what is found does not depend on which photos share a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.detection.anchors import valid_flags
from jaxft.detection.nms import nms
from jaxft.detection.top_k import top_k
from jaxft.models.detectors import objectives
from jaxft.models.detectors.dense.anchors import AnchorSettings, anchors_per_cell, level_anchors, level_strides
from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth, class_channels, flat
from jaxft.models.detectors.types import Detections, Selection
from jaxft.models.layers.per_image import per_image

DIVISOR = 32  # what a photo alone is padded to multiples of, where the anchors do not say it


class Candidates(NamedTuple):
    """Boxes before suppression: `boxes` `[N, K, 4]`, and `scores`, `labels`, `levels`, `valid` `[N, K]`."""

    boxes: Array
    scores: Array
    labels: Array
    levels: Array
    valid: Array


def own_places(
    map_size: HeightWidth, stride: HeightWidth, sizes: Array, per_cell: int = 1, divisor: int | None = None
) -> Array:
    """Which places of a level lie in a photo, padded on its own: bool `[N, A]` for `sizes` `[N, 2]`."""
    return jax.vmap(lambda size: valid_flags(map_size, stride, size, per_cell, divisor or DIVISOR))(sizes)


def best_of_level(scores: Array, own: Array, selection: Selection) -> tuple[Array, Array, Array, Array]:
    """The best pairs of place and class of one level, above the threshold.

    Args:
        scores: `[N, A, C]`.
        own: bool `[N, A]`, see `own_places`; the others are no candidates.

    Returns:
        their scores, places in A, labels, and whether they are valid, `[N, K]` each.
    """
    pairs = scores.reshape(scores.shape[0], -1)
    count = pairs.shape[1] if selection.nms_pre <= 0 else min(selection.nms_pre, pairs.shape[1])
    classes = scores.shape[-1]
    good = (pairs > selection.score_thr) & jnp.repeat(own, classes, 1)
    best, index = top_k(jnp.where(good, pairs, -1), count)
    return jnp.maximum(best, 0), index // classes, (index % classes).astype(jnp.int32), best >= 0


def anchor_candidates(
    outputs: DenseOutputs, settings: AnchorSettings, sizes: Array, pad_shape: HeightWidth, selection: Selection
) -> Candidates:
    """The best boxes of each level of a head with anchors, decoded and cut to the photo."""
    levels = []
    generator = settings.anchor_generator
    all_anchors = level_anchors(generator, outputs.map_sizes, pad_shape)
    strides, per_cell = level_strides(generator, outputs.map_sizes, pad_shape), anchors_per_cell(generator)
    for level, (score_map, box_map, anchors) in enumerate(zip(outputs.scores, outputs.boxes, all_anchors, strict=True)):
        logits = flat([score_map], class_channels(settings.loss_cls, settings.num_classes))
        scores = objectives.probabilities(settings.loss_cls, logits)
        own = own_places(outputs.map_sizes[level], strides[level], sizes, per_cell, generator.divisor)
        score, place, label, valid = best_of_level(scores, own, selection)
        if outputs.centerness:
            nearness = jax.nn.sigmoid(flat([outputs.centerness[level]], 1))[..., 0]
            score = score * objectives.rows_of(nearness, place)
        codes = objectives.rows_of(flat([box_map], 4), place)
        boxes = objectives.decode(settings.bbox_coder, anchors.astype(codes.dtype)[place], codes, sizes)
        levels.append(Candidates(boxes, score, label, jnp.full_like(label, level), valid))
    return joined(levels)


def joined(levels: Sequence[Candidates]) -> Candidates:
    """The candidates of all levels, one after another."""
    return Candidates(*(jnp.concatenate(parts, 1) for parts in zip(*levels, strict=True)))


def suppressed(candidates: Candidates, groups: Array, selection: Selection) -> Detections:
    """The best boxes that are large enough, after non-maximum suppression within `groups` `[N, K]`."""
    valid = candidates.valid
    if selection.min_bbox_size >= 0:
        sides = candidates.boxes[..., 2:] - candidates.boxes[..., :2]
        valid &= (sides > selection.min_bbox_size).all(-1)

    def one(boxes: Array, scores: Array, labels: Array, groups: Array, valid: Array) -> Detections:
        index, there = nms(boxes, scores, groups, valid, selection.iou_threshold, selection.max_per_img)
        return Detections(
            jnp.where(there[:, None], boxes[index], 0),
            jnp.where(there, scores[index], 0),
            jnp.where(there, labels[index], 0),
            there,
        )

    return per_image(jax.vmap(one), candidates.boxes, candidates.scores, candidates.labels, groups, valid)


def final_detections(candidates: Candidates, selection: Selection) -> Detections:
    """The final boxes of a head; classes do not suppress each other."""
    groups = 0 * candidates.labels if selection.class_agnostic else candidates.labels
    return suppressed(candidates, groups, selection)


def final_proposals(candidates: Candidates, selection: Selection) -> Detections:
    """The boxes of an RPN; levels do not suppress each other."""
    groups = 0 * candidates.levels if selection.class_agnostic else candidates.levels
    return suppressed(candidates, groups, selection)
