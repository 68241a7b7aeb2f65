"""Dense heads that measure distances from the centre of a cell to the edges of its object: FCOS and ATSS.

Tian et al. 2019, https://arxiv.org/abs/1904.01355; Zhang et al. 2019, https://arxiv.org/abs/1912.02424. (ATSS codes
boxes as deltas of one anchor a cell, but its head is of this kind.) GFL, of the same kind, is in `gfl_head.py`.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxft.detection.anchors import grid_points
from jaxft.detection.assign import fcos_assign
from jaxft.detection.boxes import centres, clamp
from jaxft.detection.coders import decode_distances, encode_distances
from jaxft.detection.losses import binary_cross_entropy
from jaxft.models import dense, objectives
from jaxft.models.conv_module import bias_for, normal_001, zeros
from jaxft.models.dense_heads import stack
from jaxft.models.detection_types import (
    AnchorGenerator,
    ATSSAssigner,
    BoxLoss,
    ClassLoss,
    DeltaCoder,
    DenseTrain,
    Detections,
    DistanceCoder,
    Norm,
    Selection,
    Targets,
)
from jaxft.models.layers import Conv, Scale

INFINITY = 1e8  # MMDetection's, in ranges of distances
FCOS_RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, INFINITY))
FCOS_STRIDES = (8, 16, 32, 64, 128)
GROUP_NORM = Norm("GN")
FCOS_TEST = Selection(max_per_img=100, iou_threshold=0.5, nms_pre=1000, score_thr=0.05, min_bbox_size=0)
ATSS_TEST = Selection(max_per_img=100, iou_threshold=0.6, nms_pre=1000, score_thr=0.05, min_bbox_size=0)
ONE_ANCHOR = AnchorGenerator(strides=(8, 16, 32, 64, 128), ratios=(1.0,), octave_base_scale=8, scales_per_octave=1)
ATSS_TRAIN = DenseTrain(ATSSAssigner(9))
ATSS_CODER = DeltaCoder(target_stds=(0.1, 0.1, 0.2, 0.2))
DISTANCES = DistanceCoder()
FOCAL = ClassLoss("focal")
IOU = BoxLoss("iou")
GIOU = BoxLoss("giou", loss_weight=2.0)


class FCOSHead(nnx.Module):
    """Classes, distances to the four edges, and how near to the centre of an object each cell lies.

    Args:
        num_classes, in_channels, feat_channels, stacked_convs, norm_cfg: as of `RetinaHead`.
        strides, regress_ranges: of each level, pixels; a level learns objects whose farthest edge is in its range.
        center_sampling, center_sample_radius: only cells near the centre are positive, within radius * stride.
        norm_on_bbox: distances are in units of the stride, cut at 0; otherwise exponentials, in pixels.
        centerness_on_reg: whether the centre-ness is read off the boxes' stack.
        conv_bias: whether convolutions of the stacks have biases; None: where there is no normalisation.
        offset: of a cell's centre, in strides; 0 in torchvision.
        divided_grid: cells are the canvas divided by the map apart, not the stride (torchvision).
        with_scales: a learned factor a level; False in torchvision.
        open_ranges: a distance at the end of a range is outside of it (torchvision).
        weighted_boxes: the box loss is weighted by the centre-ness; False in torchvision.
        geometric_scores: scores are sqrt(class * centre-ness) from the start (torchvision); otherwise the classes
            are cut and ranked first, and multiplied by the centre-ness then.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: tuple[int, ...] = FCOS_STRIDES,
        regress_ranges: tuple[tuple[float, float], ...] = FCOS_RANGES,
        center_sampling: bool = False,
        center_sample_radius: float = 1.5,
        norm_on_bbox: bool = False,
        centerness_on_reg: bool = False,
        conv_bias: bool | None = None,
        norm_cfg: Norm | None = GROUP_NORM,
        loss_cls: ClassLoss = FOCAL,
        loss_bbox: BoxLoss = IOU,
        loss_centerness_weight: float = 1.0,
        bbox_coder: DistanceCoder = DISTANCES,
        test_cfg: Selection = FCOS_TEST,
        offset: float = 0.5,
        divided_grid: bool = False,
        with_scales: bool = True,
        open_ranges: bool = False,
        weighted_boxes: bool = True,
        geometric_scores: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.cls_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, bias=conv_bias, rngs=rngs)
        self.reg_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, bias=conv_bias, rngs=rngs)
        inputs = feat_channels if stacked_convs else in_channels
        conv = partial(Conv, padding=1, init=normal_001, rngs=rngs)
        self.conv_cls = conv(inputs, dense.channels(loss_cls, num_classes), 3, bias_init=bias_for(0.01))
        self.conv_reg = conv(inputs, 4, 3, bias_init=zeros)
        self.conv_centerness = conv(inputs, 1, 3, bias_init=zeros)
        self.scales = nnx.List([Scale() for _ in strides]) if with_scales else None
        self.num_classes, self.strides, self.regress_ranges = num_classes, strides, regress_ranges
        self.center_sampling, self.center_sample_radius = center_sampling, center_sample_radius
        self.norm_on_bbox, self.centerness_on_reg = norm_on_bbox, centerness_on_reg
        self.loss_cls, self.loss_bbox, self.loss_centerness_weight = loss_cls, loss_bbox, loss_centerness_weight
        self.bbox_coder, self.test_cfg = bbox_coder, test_cfg
        self.offset, self.open_ranges = offset, open_ranges
        self.divided_grid, self.weighted_boxes, self.geometric_scores = divided_grid, weighted_boxes, geometric_scores

    def __call__(self, maps: Sequence[Array]) -> dense.Outputs:
        """Maps, finest first -> logits `[N, h, w, C]`, distances `[N, h, w, 4]` and centre-ness `[N, h, w, 1]`.

        Distances are in pixels, or in strides with `norm_on_bbox`.
        """
        scores, boxes, centerness = [], [], []
        for level, x in enumerate(maps):
            classes, distances = self.cls_convs(x), self.reg_convs(x)
            scores.append(self.conv_cls(classes))
            centerness.append(self.conv_centerness(distances if self.centerness_on_reg else classes))
            distances = self.conv_reg(distances)
            if self.scales is not None:
                distances = self.scales[level](distances)
            boxes.append(clamp(distances, 0.0, None) if self.norm_on_bbox else jnp.exp(distances))
        return dense.Outputs(tuple(scores), tuple(boxes), tuple(centerness))

    def points(self, map_sizes: Sequence[dense.Size], canvas: dense.Size) -> list[np.ndarray]:
        """The centres of the cells of each level, `[h * w, 2]` x, y."""
        steps = [(stride, stride) for stride in self.strides]
        if self.divided_grid:
            steps = [(canvas[0] // height, canvas[1] // width) for height, width in map_sizes]
        return [grid_points(size, step, self.offset) for size, step in zip(map_sizes, steps, strict=True)]

    def loss(self, outputs: dense.Outputs, sizes: Array, canvas: dense.Size, targets: Targets) -> dict[str, Array]:
        """`loss_cls`, `loss_bbox` and `loss_centerness`."""
        logits = dense.flat(outputs.scores, dense.channels(self.loss_cls, self.num_classes))
        distances, centerness = dense.flat(outputs.boxes, 4), dense.flat(outputs.centerness, 1)[..., 0]
        levels = self.points(outputs.map_sizes, canvas)
        counts = [len(points) for points in levels]
        points = jnp.asarray(np.concatenate(levels), distances.dtype)
        strides, ranges = np.repeat(self.strides, counts), np.repeat(np.array(self.regress_ranges), counts, 0)

        def assign(truth: Array, valid: Array) -> tuple[Array, Array]:
            return fcos_assign(
                points,
                strides,
                ranges,
                truth.astype(points.dtype),
                valid,
                center_sampling=self.center_sampling,
                center_sample_radius=self.center_sample_radius,
                norm_on_bbox=self.norm_on_bbox,
                torchvision=self.open_ranges,
            )

        index, wanted = jax.vmap(assign)(targets.boxes, targets.valid)
        positive = index >= 0
        labels = jnp.where(positive, objectives.rows_of(targets.labels, jnp.maximum(index, 0)), self.num_classes)
        # A square of 1 around the cell stands where there is no object, so that nothing divides by zero.
        wanted = jnp.where(positive[..., None], wanted, 1)
        nearness = jnp.where(positive, centre_ness(wanted), 0)
        one, count = jnp.ones_like(centerness), jnp.maximum(positive.sum(), 1).astype(logits.dtype)
        weights = nearness if self.weighted_boxes else positive.astype(logits.dtype)
        total = jnp.maximum(nearness.sum(), 1e-6) if self.weighted_boxes else count
        loss_bbox = objectives.box_loss(
            self.loss_bbox, decode_distances(points[None], distances), decode_distances(points[None], wanted)
        )
        loss_centerness = self.loss_centerness_weight * binary_cross_entropy(centerness, nearness)
        return {
            "loss_cls": objectives.average(objectives.class_loss(self.loss_cls, logits, labels), one, count),
            "loss_bbox": objectives.average(loss_bbox, jax.lax.stop_gradient(weights), total),
            "loss_centerness": objectives.average(loss_centerness, positive.astype(logits.dtype), count),
        }

    def predict(self, outputs: dense.Outputs, sizes: Array, canvas: dense.Size) -> Detections:
        """The best boxes of all levels, after non-maximum suppression in each class."""
        levels = []
        for level, points in enumerate(self.points(outputs.map_sizes, canvas)):
            logits = dense.flat([outputs.scores[level]], dense.channels(self.loss_cls, self.num_classes))
            scores = objectives.probabilities(self.loss_cls, logits)
            nearness = jax.nn.sigmoid(dense.flat([outputs.centerness[level]], 1))
            if self.geometric_scores:
                scores = jnp.sqrt(scores * nearness)
            score, place, label, valid = dense.best_of_level(scores, self.test_cfg)
            if not self.geometric_scores:
                score = score * objectives.rows_of(nearness[..., 0], place)
            distances = objectives.rows_of(dense.flat([outputs.boxes[level]], 4), place)
            if self.norm_on_bbox:
                distances = distances * self.strides[level]
            boxes = boxes_around(self.bbox_coder, jnp.asarray(points, distances.dtype)[place], distances, sizes)
            levels.append(dense.Candidates(boxes, score, label, jnp.full_like(label, level), valid))
        return dense.detections(dense.joined(levels), self.test_cfg)


class ATSSHead(nnx.Module):
    """Classes, deltas of one anchor a cell, and centre-ness; positives are chosen by the objects' own statistics.

    Args:
        num_classes, in_channels, feat_channels, stacked_convs, norm_cfg: as of `RetinaHead`.
        pred_kernel_size: of the last convolutions.
        anchor_generator, bbox_coder, loss_cls, loss_bbox, train_cfg, test_cfg: see `detection_types`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        pred_kernel_size: int = 3,
        norm_cfg: Norm | None = GROUP_NORM,
        anchor_generator: AnchorGenerator = ONE_ANCHOR,
        bbox_coder: DeltaCoder = ATSS_CODER,
        loss_cls: ClassLoss = FOCAL,
        loss_bbox: BoxLoss = GIOU,
        loss_centerness_weight: float = 1.0,
        train_cfg: DenseTrain = ATSS_TRAIN,
        test_cfg: Selection = ATSS_TEST,
        rngs: nnx.Rngs,
    ) -> None:
        self.cls_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, rngs=rngs)
        self.reg_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, rngs=rngs)
        inputs, anchors = feat_channels if stacked_convs else in_channels, dense.anchors_per_cell(anchor_generator)
        size = pred_kernel_size
        conv = partial(Conv, padding=size // 2, init=normal_001, rngs=rngs)
        self.atss_cls = conv(inputs, anchors * dense.channels(loss_cls, num_classes), size, bias_init=bias_for(0.01))
        self.atss_reg = conv(inputs, anchors * 4, size, bias_init=zeros)
        self.atss_centerness = conv(inputs, anchors, size, bias_init=zeros)
        self.scales = nnx.List([Scale() for _ in anchor_generator.strides or ()])
        self.settings = dense.AnchorSettings(
            num_classes, anchor_generator, bbox_coder, True, loss_cls, loss_bbox, train_cfg
        )
        self.loss_centerness_weight, self.test_cfg = loss_centerness_weight, test_cfg

    def __call__(self, maps: Sequence[Array]) -> dense.Outputs:
        """Maps, finest first -> logits, box codes and centre-ness of each, `[N, h, w, anchors * channels]`."""
        scores, boxes, centerness = [], [], []
        for scale, x in zip(self.scales, maps, strict=True):
            scores.append(self.atss_cls(self.cls_convs(x)))
            x = self.reg_convs(x)
            boxes.append(scale(self.atss_reg(x)))
            centerness.append(self.atss_centerness(x))
        return dense.Outputs(tuple(scores), tuple(boxes), tuple(centerness))

    def loss(self, outputs: dense.Outputs, sizes: Array, canvas: dense.Size, targets: Targets) -> dict[str, Array]:
        """`loss_cls`, `loss_bbox` and `loss_centerness`."""
        settings = self.settings
        logits = dense.flat(outputs.scores, dense.channels(settings.loss_cls, settings.num_classes))
        codes, centerness = dense.flat(outputs.boxes, 4), dense.flat(outputs.centerness, 1)[..., 0]
        anchors, _, rows = dense_rows(settings.anchor_generator, settings.train_cfg, outputs, sizes, canvas, targets)
        labels = jnp.where(rows.positive, objectives.rows_of(targets.labels, rows.truth), settings.num_classes)
        truth = objectives.rows_of(targets.boxes.astype(codes.dtype), rows.truth)
        truth = jnp.where(rows.positive[..., None], truth, anchors[None])
        wanted = encode_distances(centres(anchors)[None], truth)
        nearness = jnp.where(rows.positive, centre_ness(jnp.where(rows.positive[..., None], wanted, 1)), 0)
        count = dense.divisor(settings.train_cfg, rows).astype(codes.dtype)
        loss_bbox = objectives.box_loss(
            settings.loss_bbox, objectives.decode(settings.bbox_coder, anchors[None], codes), truth
        )
        loss_centerness = self.loss_centerness_weight * binary_cross_entropy(centerness, nearness)
        weights = dense.weights(settings.train_cfg, rows, codes.dtype)
        total = jnp.maximum(nearness.sum(), 1)
        return {
            "loss_cls": objectives.average(objectives.class_loss(settings.loss_cls, logits, labels), weights, count),
            "loss_bbox": objectives.average(loss_bbox, nearness, jnp.ones_like(total)) / total,
            "loss_centerness": objectives.average(loss_centerness, rows.positive.astype(codes.dtype), count),
        }

    def predict(self, outputs: dense.Outputs, sizes: Array, canvas: dense.Size) -> Detections:
        """The best boxes of all levels, after non-maximum suppression in each class."""
        boxes = dense.anchor_candidates(outputs, self.settings, sizes, canvas, self.test_cfg)
        return dense.detections(boxes, self.test_cfg)


def dense_rows(
    generator: AnchorGenerator,
    train: DenseTrain,
    outputs: dense.Outputs,
    sizes: Array,
    canvas: dense.Size,
    targets: Targets,
) -> tuple[Array, Array, dense.Rows]:
    """All anchors `[A, 4]`, the stride of each `[A]`, and the objects that they are given to."""
    levels = dense.level_anchors(generator, outputs.map_sizes, canvas)
    counts = tuple(map(len, levels))
    wide = jnp.promote_types(outputs.boxes[0].dtype, jnp.float32)
    anchors = jnp.asarray(np.concatenate(levels), wide)
    strides = np.repeat([stride for stride, _ in dense.level_strides(generator, outputs.map_sizes, canvas)], counts)
    usable = dense.usable_anchors(generator, outputs.map_sizes, canvas, sizes, train.allowed_border)
    return anchors, jnp.asarray(strides, wide), dense.assigned_rows(train, anchors, usable, counts, targets, None)


def centre_ness(distances: Array) -> Array:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of `[..., 4]` left, top, right, bottom, all positive."""
    near = jnp.minimum(distances[..., :2], distances[..., 2:])
    return jnp.sqrt((near / jnp.maximum(distances[..., :2], distances[..., 2:])).prod(-1))


def boxes_around(coder: DistanceCoder, points: Array, distances: Array, sizes: Array) -> Array:
    """Boxes `[N, K, 4]` of distances from points `[N, K, 2]`, cut to the photos' `sizes` if the coder says so."""
    if not coder.clip_border:
        return decode_distances(points, distances)
    return jax.vmap(decode_distances)(points, distances, sizes)
