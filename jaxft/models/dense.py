"""What dense heads share: anchors of all levels, their targets and losses, and the choice of the best boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxft.detection import anchors as geometry
from jaxft.detection.nms import nms
from jaxft.detection.sample import random_sample
from jaxft.models import objectives
from jaxft.models.detection_types import (
    AnchorGenerator,
    BoxLoss,
    ClassLoss,
    DeltaCoder,
    DenseTrain,
    Detections,
    Selection,
    Targets,
)

Size = tuple[int, int]


class Outputs(NamedTuple):
    """The raw maps of a dense head, `[N, h, w, anchors * channels]` each, finest level first."""

    scores: tuple[Array, ...]
    boxes: tuple[Array, ...]
    centerness: tuple[Array, ...] = ()

    @property
    def map_sizes(self) -> list[Size]:
        """Height and width of each level."""
        return [(x.shape[1], x.shape[2]) for x in self.scores]


@dataclass(frozen=True)
class AnchorSettings:
    """The plain values of a head with anchors; see `detection_types`."""

    num_classes: int
    anchor_generator: AnchorGenerator
    bbox_coder: DeltaCoder
    reg_decoded_bbox: bool
    loss_cls: ClassLoss
    loss_bbox: BoxLoss
    train_cfg: DenseTrain


class Rows(NamedTuple):
    """The anchors of a batch that count in the losses, `[N, R]` each.

    `place` among all anchors; None where the rows are all of them. `truth` is the object of a positive row.
    """

    place: Array | None
    positive: Array
    negative: Array
    truth: Array


class Candidates(NamedTuple):
    """Boxes before suppression: `boxes` `[N, K, 4]`, and `scores`, `labels`, `levels`, `valid` `[N, K]`."""

    boxes: Array
    scores: Array
    labels: Array
    levels: Array
    valid: Array


def channels(loss: ClassLoss, num_classes: int) -> int:
    """Logits that a head puts out for each anchor."""
    return num_classes if loss.use_sigmoid else num_classes + 1


def base_anchors(generator: AnchorGenerator) -> list[np.ndarray]:
    """The anchors of the first cell of each level, `[A, 4]`."""
    if generator.sizes is not None:
        return [
            geometry.base_anchors(1, sizes, generator.ratios, scale_major=generator.scale_major, round_=generator.round)
            for sizes in generator.sizes
        ]
    scales = generator.scales
    if scales is None:
        if generator.octave_base_scale is None or generator.scales_per_octave is None:
            raise ValueError("anchors need sizes, scales, or octave_base_scale and scales_per_octave")
        scales = geometry.octave_scales(generator.octave_base_scale, generator.scales_per_octave)
    return [
        geometry.base_anchors(
            base,
            scales,
            generator.ratios,
            centre_offset=generator.center_offset,
            scale_major=generator.scale_major,
            round_=generator.round,
        )
        for base in generator.base_sizes or generator.strides or ()
    ]


def anchors_per_cell(generator: AnchorGenerator) -> int:
    """How many anchors each cell has."""
    return len(base_anchors(generator)[0])


def level_strides(generator: AnchorGenerator, map_sizes: Sequence[Size], canvas: Size) -> list[Size]:
    """(height, width) of a cell of each level, pixels."""
    if generator.strides is not None:
        return [(stride, stride) for stride in generator.strides]
    return [(canvas[0] // height, canvas[1] // width) for height, width in map_sizes]


def level_anchors(generator: AnchorGenerator, map_sizes: Sequence[Size], canvas: Size) -> list[np.ndarray]:
    """All anchors of each level `[h * w * A, 4]`, ordered by row, column, anchor."""
    strides = level_strides(generator, map_sizes, canvas)
    return [
        geometry.grid_anchors(base, size, stride)
        for base, size, stride in zip(base_anchors(generator), map_sizes, strides, strict=True)
    ]


def usable_anchors(
    generator: AnchorGenerator, map_sizes: Sequence[Size], canvas: Size, sizes: Array, allowed_border: float
) -> Array:
    """Which anchors take part in the training of each photo: bool `[N, A]`."""
    anchors = jnp.asarray(np.concatenate(level_anchors(generator, map_sizes, canvas)))
    strides, count = level_strides(generator, map_sizes, canvas), anchors_per_cell(generator)

    def one(size: Array) -> Array:
        inside = geometry.inside_flags(anchors, size, allowed_border)
        if generator.divisor is None:
            return inside
        levels = [
            geometry.valid_flags(map_size, stride, size, count, generator.divisor)
            for map_size, stride in zip(map_sizes, strides, strict=True)
        ]
        return inside & jnp.concatenate(levels)

    return jax.vmap(one)(sizes)


def flat(maps: Sequence[Array], width: int) -> Array:
    """Maps `[N, h, w, A * width]` of all levels -> rows `[N, A of all, width]`, in float32 or wider."""
    rows = [x.reshape(x.shape[0], -1, width) for x in maps]
    joined = jnp.concatenate(rows, 1) if len(rows) > 1 else rows[0]
    return joined.astype(jnp.promote_types(joined.dtype, jnp.float32))


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


def divisor(train: DenseTrain, rows: Rows) -> Array:
    """What the losses are divided by: one number, or one an image `[N]`."""
    positive, negative = rows.positive.sum(-1), rows.negative.sum(-1)
    if train.average_per_image:
        return jnp.maximum(positive, 1) * len(positive)
    if train.sampler is None:
        return jnp.maximum(positive, 1).sum()
    if train.sampler.counts_at_least_one:
        return (jnp.maximum(positive, 1) + jnp.maximum(negative, 1)).sum()
    return jnp.maximum((positive + negative).sum(), 1)


def weights(train: DenseTrain, rows: Rows, dtype: jnp.dtype) -> Array:
    """Weights of the rows in the loss of classes `[N, R]`."""
    heavy = train.pos_weight if train.pos_weight > 0 else 1.0
    return jnp.where(rows.positive, heavy, jnp.where(rows.negative, 1.0, 0.0)).astype(dtype)


def anchor_losses(
    outputs: Outputs,
    settings: AnchorSettings,
    sizes: Array,
    canvas: Size,
    targets: Targets,
    stream: nnx.RngStream | None,
) -> tuple[Array, Array]:
    """The losses of classes and of boxes of a head with anchors, over all levels.

    Args:
        sizes: `[N, 2]` height, width of the photos inside the canvas.
        stream: draws samples, where `train_cfg` has a sampler.
    """
    train, generator, map_sizes = settings.train_cfg, settings.anchor_generator, outputs.map_sizes
    logits = flat(outputs.scores, channels(settings.loss_cls, settings.num_classes))
    codes = flat(outputs.boxes, 4)
    levels = level_anchors(generator, map_sizes, canvas)
    anchors = jnp.asarray(np.concatenate(levels), codes.dtype)
    usable = usable_anchors(generator, map_sizes, canvas, sizes, train.allowed_border)
    rows = assigned_rows(train, anchors, usable, tuple(map(len, levels)), targets, stream)
    boxes = jnp.broadcast_to(anchors[None], codes.shape)
    if rows.place is not None:
        logits, codes, boxes = (objectives.rows_of(table, rows.place) for table in (logits, codes, boxes))
    labels = jnp.where(rows.positive, objectives.rows_of(targets.labels, rows.truth), settings.num_classes)
    truth = objectives.rows_of(targets.boxes.astype(boxes.dtype), rows.truth)
    truth = jnp.where(rows.positive[..., None], truth, boxes)
    by = divisor(train, rows).astype(codes.dtype)
    loss_cls = objectives.average(
        objectives.class_loss(settings.loss_cls, logits, labels), weights(train, rows, codes.dtype), by
    )
    if settings.reg_decoded_bbox:
        loss = objectives.box_loss(settings.loss_bbox, objectives.decode(settings.bbox_coder, boxes, codes), truth)
    else:
        loss = objectives.box_loss(settings.loss_bbox, codes, objectives.encode(settings.bbox_coder, boxes, truth))
    return loss_cls, objectives.average(loss, rows.positive.astype(codes.dtype), by)


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
    outputs: Outputs, settings: AnchorSettings, sizes: Array, canvas: Size, selection: Selection
) -> Candidates:
    """The best boxes of each level of a head with anchors, decoded and cut to the photo."""
    levels = []
    all_anchors = level_anchors(settings.anchor_generator, outputs.map_sizes, canvas)
    for level, (score_map, box_map, anchors) in enumerate(zip(outputs.scores, outputs.boxes, all_anchors, strict=True)):
        logits = flat([score_map], channels(settings.loss_cls, settings.num_classes))
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


def detections(candidates: Candidates, selection: Selection) -> Detections:
    """The final boxes of a head; classes do not suppress each other."""
    groups = 0 * candidates.labels if selection.class_agnostic else candidates.labels
    return suppressed(candidates, groups, selection)


def proposals(candidates: Candidates, selection: Selection) -> Detections:
    """The boxes of an RPN; levels do not suppress each other."""
    groups = 0 * candidates.levels if selection.class_agnostic else candidates.levels
    return suppressed(candidates, groups, selection)
