"""Which ground truth each anchor, proposal or point is to find."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.detection.boxes import area, centers, clamp, iou, pairwise_iou
from jaxft.detection.pairs import best_pairs, by_chunks

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
    boxes, truth = jax.lax.stop_gradient((boxes, truth))

    def overlaps_of(boxes: Array, valid: Array) -> Array:
        usable = valid
        if ignored is not None and ignore_iof_thr > 0:
            crowd = _in_crowd(boxes, truth, ignored, ignore_iof_thr, ignore_wrt_candidates)
            usable = valid & ~(crowd & truth_valid.any())
        return jnp.where(usable[:, None] & truth_valid[None], pairwise_iou(boxes, truth), -1)

    best = best_pairs(
        overlaps_of,
        boxes,
        valid,
        truth.shape[0],
        chooses=match_low_quality,
        floor=max(min_pos_iou, 0.0),
        all_of=gt_max_assign_all,
    )
    low, high = neg_iou_thr if isinstance(neg_iou_thr, tuple) else (0.0, neg_iou_thr)
    index = jnp.where((best.overlap >= low) & (best.overlap < high), BACKGROUND, IGNORED)
    index = jnp.where(best.overlap >= pos_iou_thr, best.truth, index)
    by = best.truth if low_quality_to_own_best else best.chosen_by
    index = jnp.where(best.chosen_by >= 0, by, index)
    index = jnp.where(truth_valid.any(), index, BACKGROUND)
    return Assignment(jnp.where(valid, index, IGNORED).astype(jnp.int32), jnp.maximum(best.overlap, 0))


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


def _well_placed(anchors: Array, nearest: Array, truth: Array) -> tuple[Array, Array]:
    """bool `[G, K]`: which of the `nearest` overlap with their ground truth by mean and deviation of all of them and
    have their center inside; and the overlaps `[G, K]`."""
    there, own = nearest < anchors.shape[0], anchors[jnp.minimum(nearest, anchors.shape[0] - 1)]
    overlap = jnp.where(there, iou(truth[:, None], own), 0)
    number = there.sum(1, keepdims=True)
    mean = overlap.sum(1, keepdims=True) / jnp.maximum(number, 1)
    spread = jnp.where(there, jnp.square(overlap - mean), 0).sum(1, keepdims=True) / jnp.maximum(number - 1, 1)
    edges = jnp.concatenate([centers(own) - truth[:, None, :2], truth[:, None, 2:] - centers(own)], -1)
    return there & (number > 1) & (overlap >= mean + jnp.sqrt(spread)) & (edges.min(-1) > 0.01), overlap


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
    anchors, truth = jax.lax.stop_gradient((anchors, truth))
    count, truths = anchors.shape[0], truth.shape[0]
    far = jnp.zeros(count, bool)
    if ignored is not None and ignore_iof_thr > 0:
        crowds = partial(_in_crowd, truth=truth, ignored=ignored, ignore_iof_thr=ignore_iof_thr, wrt_candidates=True)
        far = by_chunks(crowds, truths, anchors) & truth_valid.any()
    nearest = by_chunks(lambda truth: _nearest(anchors, valid, far, level_sizes, truth, topk), count, truth)
    positive, overlap = _well_placed(anchors, nearest, truth)
    positive &= truth_valid[:, None]
    best = jnp.full(count, -1, overlap.dtype).at[nearest].max(jnp.where(positive, overlap, -1), mode="drop")
    place = jnp.where(positive & (overlap == best[jnp.minimum(nearest, count - 1)]), nearest, count)
    first = jnp.full(count, truths, jnp.int32).at[place].min(jnp.arange(truths, dtype=jnp.int32)[:, None], mode="drop")
    index = jnp.where(first < truths, first, jnp.where(far, IGNORED, BACKGROUND))
    return Assignment(jnp.where(valid, index, IGNORED).astype(jnp.int32), jnp.maximum(best, 0))


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
    size = -(1e8 - area(truth)) if torchvision else area(truth)
    radius = center_sample_radius if center_sampling else None

    def smallest(points: Array, strides: Array, ranges: Array) -> tuple[Array, Array]:
        edges = _edges(points[:, None], truth[None])
        farthest, (low, high) = reduce(jnp.maximum, edges), (ranges[:, :1], ranges[:, 1:])
        within = (farthest > low) & (farthest < high) if torchvision else (farthest >= low) & (farthest <= high)
        inside = reduce(jnp.minimum, edges) > 0
        if radius is not None:
            near = _near_center(points[:, None], (strides * radius)[:, None], truth[None], torchvision)
            inside = inside & near if torchvision else near
        sizes = jnp.where(inside & within & truth_valid[None], size[None], jnp.inf)
        return sizes.argmin(1).astype(jnp.int32), sizes.min(1) < jnp.inf

    index, found = by_chunks(smallest, truth.shape[0], points, strides, ranges)
    own = jnp.stack(_edges(points, truth[index]), -1)
    own = jnp.where(found[:, None], own / strides[:, None] if norm_on_bbox else own, 0)
    return PointAssignment(jnp.where(found, index, BACKGROUND), own)


def _edges(points: Array, boxes: Array) -> tuple[Array, Array, Array, Array]:
    """From points `[..., 2]` to the left, top, right and bottom of boxes `[..., 4]`."""
    x, y = points[..., 0], points[..., 1]
    return x - boxes[..., 0], y - boxes[..., 1], boxes[..., 2] - x, boxes[..., 3] - y


def _near_center(points: Array, reach: Array, boxes: Array, torchvision: bool) -> Array:
    """Whether points `[..., 2]` lie within `reach` of the centers of boxes `[..., 4]`; inside the boxes, too, but for
    torchvision's."""

    def along(axis: int) -> Array:
        where, low, high = points[..., axis], boxes[..., axis], boxes[..., axis + 2]
        middle = (low + high) / 2
        if torchvision:
            return jnp.abs(where - middle) < reach
        return (where > jnp.maximum(middle - reach, low)) & (where < jnp.minimum(middle + reach, high))

    return along(0) & along(1)


def centerness(distances: Array) -> Array:
    """FCOS's center-ness `[...]` of `distances` `[..., 4]`: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)).

    0 where a distance is not positive, such as in rows of the background.
    """
    across, down = distances[..., 0::2], distances[..., 1::2]
    inside = distances.min(-1) > 0
    across, down = (jnp.where(inside[..., None], pair, 1) for pair in (across, down))
    ratio = across.min(-1) / across.max(-1) * (down.min(-1) / down.max(-1))
    return jnp.where(inside, jnp.sqrt(clamp(ratio, 0.0, 1.0)), 0)
