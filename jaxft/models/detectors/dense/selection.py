"""The best boxes of a dense head, before and after non-maximum suppression."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.detection.nms import nms
from jaxft.models.detectors import objectives
from jaxft.models.detectors.dense.anchors import AnchorSettings, level_anchors
from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth, class_channels, flat
from jaxft.models.detectors.types import Detections, Selection


class Candidates(NamedTuple):
    """Boxes before suppression: `boxes` `[N, K, 4]`, and `scores`, `labels`, `levels`, `valid` `[N, K]`."""

    boxes: Array
    scores: Array
    labels: Array
    levels: Array
    valid: Array


def best_of_level(scores: Array, selection: Selection) -> tuple[Array, Array, Array, Array]:
    """The best pairs of place and class of one level, above the threshold.

    Args:
        scores: `[N, A, C]`.

    Returns:
        their scores, places in A, labels, and whether they are valid, `[N, K]` each.
    """
    pairs = scores.reshape(scores.shape[0], -1)
    count = pairs.shape[1] if selection.nms_pre <= 0 else min(selection.nms_pre, pairs.shape[1])
    best, index = jax.lax.top_k(jnp.where(pairs > selection.score_thr, pairs, -1), count)
    classes = scores.shape[-1]
    return jnp.maximum(best, 0), index // classes, (index % classes).astype(jnp.int32), best >= 0


def anchor_candidates(
    outputs: DenseOutputs, settings: AnchorSettings, sizes: Array, pad_shape: HeightWidth, selection: Selection
) -> Candidates:
    """The best boxes of each level of a head with anchors, decoded and cut to the photo."""
    levels = []
    all_anchors = level_anchors(settings.anchor_generator, outputs.map_sizes, pad_shape)
    for level, (score_map, box_map, anchors) in enumerate(zip(outputs.scores, outputs.boxes, all_anchors, strict=True)):
        logits = flat([score_map], class_channels(settings.loss_cls, settings.num_classes))
        scores = objectives.probabilities(settings.loss_cls, logits)
        score, place, label, valid = best_of_level(scores, selection)
        if outputs.centerness:
            nearness = jax.nn.sigmoid(flat([outputs.centerness[level]], 1))[..., 0]
            score = score * objectives.rows_of(nearness, place)
        codes = objectives.rows_of(flat([box_map], 4), place)
        boxes = objectives.decode(settings.bbox_coder, jnp.asarray(anchors, codes.dtype)[place], codes, sizes)
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

    return jax.vmap(one)(candidates.boxes, candidates.scores, candidates.labels, groups, valid)


def final_detections(candidates: Candidates, selection: Selection) -> Detections:
    """The final boxes of a head; classes do not suppress each other."""
    groups = 0 * candidates.labels if selection.class_agnostic else candidates.labels
    return suppressed(candidates, groups, selection)


def final_proposals(candidates: Candidates, selection: Selection) -> Detections:
    """The boxes of an RPN; levels do not suppress each other."""
    groups = 0 * candidates.levels if selection.class_agnostic else candidates.levels
    return suppressed(candidates, groups, selection)
