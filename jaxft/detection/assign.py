"""Which ground truth each anchor, proposal or point is to find."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.detection.boxes import area, centers, clamp, pairwise_iou

BACKGROUND, IGNORED = -1, -2


class Assignment(NamedTuple):
    """index: int32 `[A]`: row of the ground truth, or BACKGROUND (-1), or IGNORED (-2), which also invalid candidates
    are. overlap: `[A]`, IoU with the best ground truth (max-IoU) or the assigned one (ATSS), 0 where there is none."""

    index: Array  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    overlap: Array


class PointAssignment(NamedTuple):
    """index: int32 `[K]`: row of the ground truth or BACKGROUND. distances: `[K, 4]`, left, top, right, bottom to its
    edges in pixels (or strides); 0 for background."""

    index: Array  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    distances: Array


def _in_crowd(boxes: Array, truth: Array, ignored: Array, ignore_iof_thr: float, wrt_candidates: bool) -> Array:
    """bool `[A]`: which `boxes` overlap with an ignored row of `truth` by more than the threshold."""
    iof = pairwise_iou(boxes, truth, "iof") if wrt_candidates else pairwise_iou(truth, boxes, "iof").T
    return (jnp.where(ignored[None], iof, 0) > ignore_iof_thr).any(1)


def max_iou_assign(
    boxes: Array,
    valid: Array,
    truth: Array,
    truth_valid: Array,
    *,
    pos_iou_thr: float,
    neg_iou_thr: float | tuple[float, float],
    min_pos_iou: float = 0.0,
    match_low_quality: bool = True,
    gt_max_assign_all: bool = True,
    low_quality_to_own_best: bool = False,
    ignored: Array | None = None,
    ignore_iof_thr: float = -1.0,
    ignore_wrt_candidates: bool = True,
) -> Assignment:
    """Assigns by the highest IoU; MMDetection's `MaxIoUAssigner` and torchvision's `Matcher`.

    A candidate whose best IoU is at least `pos_iou_thr` belongs to that ground truth; below `neg_iou_thr` (or inside
    the half-open pair) it is background; in between it is ignored. Low-quality matching then gives every ground truth
    its best candidates where their IoU is at least `min_pos_iou`.

    Args:
        boxes, valid: `[A, 4]` candidates and bool `[A]`; an invalid one is IGNORED and nobody's best.
        truth, truth_valid: `[G, 4]` and bool `[G]`.
        gt_max_assign_all: all candidates that share a ground truth's highest IoU are its own, or only the first.
        low_quality_to_own_best: such a candidate goes to the ground truth that *it* overlaps most (torchvision)
            instead of the one that chose it, the last of several (MMDetection).
        ignored: bool `[G]`: crowds. Candidates that overlap with one by an IoF above `ignore_iof_thr` (if that is
            positive) are IGNORED; IoF is over the candidate's area, or the crowd's without `ignore_wrt_candidates`.
            As in MMDetection an image without any ground truth is background, crowds or not.
    """
    overlaps = jnp.where(truth_valid[:, None] & valid[None], pairwise_iou(truth, boxes), -1)
    if ignored is not None and ignore_iof_thr > 0:
        crowd = _in_crowd(boxes, truth, ignored, ignore_iof_thr, ignore_wrt_candidates)
        overlaps = jnp.where((crowd & truth_valid.any())[None], -1, overlaps)
    # Computed once: overlaps are compared for equality below, and a second computation may round differently.
    overlaps = jax.lax.optimization_barrier(overlaps)
    best, best_truth = overlaps.max(0), overlaps.argmax(0).astype(jnp.int32)
    low, high = neg_iou_thr if isinstance(neg_iou_thr, tuple) else (0.0, neg_iou_thr)
    index = jnp.where((best >= low) & (best < high), BACKGROUND, IGNORED)
    index = jnp.where(best >= pos_iou_thr, best_truth, index)
    if match_low_quality:
        truth_best = overlaps.max(1, keepdims=True)
        chosen = overlaps == truth_best
        if not gt_max_assign_all:
            chosen = jnp.arange(boxes.shape[0])[None] == overlaps.argmax(1)[:, None]
        chosen &= (truth_best >= max(min_pos_iou, 0.0)) & truth_valid[:, None]
        rows = jnp.arange(truth.shape[0], dtype=jnp.int32)[:, None]
        by = best_truth if low_quality_to_own_best else jnp.where(chosen, rows, -1).max(0)
        index = jnp.where(chosen.any(0), by, index)
    index = jnp.where(truth_valid.any(), index, BACKGROUND)
    return Assignment(jnp.where(valid, index, IGNORED).astype(jnp.int32), jnp.maximum(best, 0))


def prepend_truth(assignment: Assignment, truth_valid: Array) -> Assignment:
    """The assignment of candidates to which the ground truth was prepended: G + A rows, each its own first.

    What MMDetection's samplers do under `add_gt_as_proposals`; padded rows are IGNORED.
    """
    rows = jnp.where(truth_valid, jnp.arange(truth_valid.shape[0], dtype=jnp.int32), IGNORED)
    overlap = truth_valid.astype(assignment.overlap.dtype)
    return Assignment(
        jnp.concatenate([rows, assignment.index]).astype(jnp.int32), jnp.concatenate([overlap, assignment.overlap])
    )


def _nearest(anchors: Array, valid: Array, far: Array, level_sizes: Sequence[int], truth: Array, topk: int) -> Array:
    """int32 `[G, K]`: per ground truth the `topk` nearest anchors of each level, A where a level has no more."""
    apart = centers(truth)[:, None] - centers(anchors)[None]
    distance = jnp.sqrt(jnp.square(apart).sum(-1))
    distance = jnp.where(valid[None], jnp.where(far[None], 1e8, distance), jnp.inf)
    nearest, start = [], 0
    for size in level_sizes:
        negative, index = jax.lax.top_k(-distance[:, start : start + size], min(topk, size))
        nearest.append(jnp.where(negative == -jnp.inf, anchors.shape[0], index + start))
        start += size
    return jnp.concatenate(nearest, 1)


def atss_assign(
    anchors: Array,
    level_sizes: Sequence[int],
    valid: Array,
    truth: Array,
    truth_valid: Array,
    *,
    topk: int = 9,
    ignored: Array | None = None,
    ignore_iof_thr: float = -1.0,
) -> Assignment:
    """Adaptive training sample selection, MMDetection's `ATSSAssigner`; Zhang et al. 2019,
    https://arxiv.org/abs/1912.02424.

    The candidates of a ground truth are the `topk` valid anchors of each level with the nearest centers. Positive are
    those whose IoU is at least the mean plus the (unbiased) deviation of the candidates' IoUs and whose center lies
    inside. An anchor of several goes to the highest IoU; all others are background.

    Args:
        anchors, valid: `[A, 4]` and bool `[A]`, level after level.
        level_sizes: anchors of each level, A in total.
        truth, truth_valid: `[G, 4]` and bool `[G]`.
        ignored, ignore_iof_thr: as of `max_iou_assign`; IoF is over the anchor's area.
    """
    count = anchors.shape[0]
    far = jnp.zeros(count, bool)
    if ignored is not None and ignore_iof_thr > 0:
        far = _in_crowd(anchors, truth, ignored, ignore_iof_thr, True) & truth_valid.any()
    nearest = _nearest(anchors, valid, far, level_sizes, truth, topk)
    there, rows = nearest < count, jnp.arange(truth.shape[0])[:, None]
    overlaps = pairwise_iou(truth, anchors)
    candidate = jnp.where(there, overlaps[rows, jnp.minimum(nearest, count - 1)], 0)
    number = there.sum(1, keepdims=True)
    mean = candidate.sum(1, keepdims=True) / jnp.maximum(number, 1)
    spread = jnp.where(there, jnp.square(candidate - mean), 0).sum(1, keepdims=True) / jnp.maximum(number - 1, 1)
    center = centers(anchors)[jnp.minimum(nearest, count - 1)]
    edges = jnp.concatenate([center - truth[:, None, :2], truth[:, None, 2:] - center], -1)
    positive = there & (number > 1) & (candidate >= mean + jnp.sqrt(spread)) & (edges.min(-1) > 0.01)
    positive &= truth_valid[:, None]
    chosen = jnp.zeros(overlaps.shape, bool).at[rows, nearest].max(positive, mode="drop")
    overlaps = jnp.where(chosen, overlaps, -1)
    index = jnp.where(chosen.any(0), overlaps.argmax(0), jnp.where(far, IGNORED, BACKGROUND))
    return Assignment(jnp.where(valid, index, IGNORED).astype(jnp.int32), jnp.maximum(overlaps.max(0), 0))


def fcos_assign(
    points: Array,
    strides: Array | np.ndarray,
    regress_ranges: Array | np.ndarray,
    truth: Array,
    truth_valid: Array,
    *,
    center_sampling: bool = False,
    center_sample_radius: float = 1.5,
    norm_on_bbox: bool = False,
    torchvision: bool = False,
) -> PointAssignment:
    """Points inside boxes, FCOS; Tian et al. 2019, https://arxiv.org/abs/1904.01355.

    A point finds the smallest ground truth that it lies in (with `center_sampling`: also within `center_sample_radius`
    strides of its center) and whose farthest edge is within the point's range.

    Args:
        points: `[K, 2]` x, y, of all levels.
        strides: `[K]` pixels, of each point's level.
        regress_ranges: `[K, 2]` pixels, of each point's level; both ends belong to it.
        truth, truth_valid: `[G, 4]` and bool `[G]`.
        norm_on_bbox: whether the distances returned are in strides.
        torchvision: its variant: the ends of a range do not belong to it, and of areas that are equal as
            1e8 - area in float32 the first counts as smaller.
    """
    strides, ranges = jnp.asarray(strides, truth.dtype), jnp.asarray(regress_ranges, truth.dtype)
    low, high = points[:, None] - truth[None, :, :2], truth[None, :, 2:] - points[:, None]
    distances = jnp.concatenate([low, high], -1)
    inside = distances.min(-1) > 0
    if center_sampling:
        reach = (strides * center_sample_radius)[:, None, None]
        middle = ((truth[:, :2] + truth[:, 2:]) / 2)[None]
        if torchvision:
            inside &= (jnp.abs(points[:, None] - middle) < reach).all(-1)
        else:
            first = jnp.maximum(middle - reach, truth[None, :, :2])
            last = jnp.minimum(middle + reach, truth[None, :, 2:])
            inside = ((points[:, None] > first) & (points[:, None] < last)).all(-1)
    farthest = distances.max(-1)
    if torchvision:
        within = (farthest > ranges[:, :1]) & (farthest < ranges[:, 1:])
        size = -(1e8 - area(truth))
    else:
        within = (farthest >= ranges[:, :1]) & (farthest <= ranges[:, 1:])
        size = area(truth)
    size = jnp.where(inside & within & truth_valid[None], size[None], jnp.inf)
    index = size.argmin(1)
    found = jnp.take_along_axis(size, index[:, None], 1)[:, 0] < jnp.inf
    own = jnp.take_along_axis(distances, index[:, None, None], 1)[:, 0]
    own = jnp.where(found[:, None], own / strides[:, None] if norm_on_bbox else own, 0)
    return PointAssignment(jnp.where(found, index, BACKGROUND).astype(jnp.int32), own)


def centerness(distances: Array) -> Array:
    """FCOS's center-ness `[...]` of `distances` `[..., 4]`: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)).

    0 where a distance is not positive, such as in rows of the background.
    """
    across, down = distances[..., 0::2], distances[..., 1::2]
    inside = distances.min(-1) > 0
    across, down = (jnp.where(inside[..., None], pair, 1) for pair in (across, down))
    ratio = across.min(-1) / across.max(-1) * (down.min(-1) / down.max(-1))
    return jnp.where(inside, jnp.sqrt(clamp(ratio, 0.0, 1.0)), 0)
