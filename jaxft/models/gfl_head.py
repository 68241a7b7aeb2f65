"""The dense head of Generalized Focal Loss; Li et al. 2020, https://arxiv.org/abs/2006.04388."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.detection.boxes import centres, iou
from jaxft.detection.coders import decode_distances, encode_distances
from jaxft.detection.losses import distribution_focal, quality_focal
from jaxft.models import dense, objectives
from jaxft.models.anchor_free_heads import (
    ATSS_TEST,
    ATSS_TRAIN,
    DISTANCES,
    GIOU,
    GROUP_NORM,
    ONE_ANCHOR,
    boxes_around,
    dense_rows,
)
from jaxft.models.conv_module import bias_for, normal_001, zeros
from jaxft.models.dense_heads import stack
from jaxft.models.detection_types import (
    AnchorGenerator,
    BoxLoss,
    ClassLoss,
    DenseTrain,
    Detections,
    DistanceCoder,
    Norm,
    Selection,
    Targets,
)
from jaxft.models.layers import Buffer, Conv, Scale

QUALITY_FOCAL = ClassLoss("quality_focal")


class Integral(nnx.Module):
    """The mean of a distribution over 0, 1, ..., `reg_max`."""

    def __init__(self, reg_max: int) -> None:
        self.project = Buffer(jnp.arange(reg_max + 1, dtype=jnp.float32))

    def __call__(self, logits: Array) -> Array:
        """`[..., 4 * (reg_max + 1)]` -> `[..., 4]`."""
        project = self.project[...].astype(logits.dtype)
        return nnx.softmax(logits.reshape(*logits.shape[:-1], 4, -1), -1) @ project


class GFLHead(nnx.Module):
    """Generalized focal loss: classes that mean the overlap of their box, and a distribution for each of its edges.

    Args:
        num_classes, in_channels, feat_channels, stacked_convs, norm_cfg: as of `RetinaHead`.
        reg_max: distances reach from 0 to so many strides.
        loss_dfl_weight: of the distribution focal loss.
        anchor_generator, loss_cls, loss_bbox, train_cfg, test_cfg: see `detection_types`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        reg_max: int = 16,
        norm_cfg: Norm | None = GROUP_NORM,
        anchor_generator: AnchorGenerator = ONE_ANCHOR,
        bbox_coder: DistanceCoder = DISTANCES,
        loss_cls: ClassLoss = QUALITY_FOCAL,
        loss_bbox: BoxLoss = GIOU,
        loss_dfl_weight: float = 0.25,
        train_cfg: DenseTrain = ATSS_TRAIN,
        test_cfg: Selection = ATSS_TEST,
        rngs: nnx.Rngs,
    ) -> None:
        self.cls_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, rngs=rngs)
        self.reg_convs = stack(in_channels, feat_channels, stacked_convs, norm_cfg, rngs=rngs)
        inputs = feat_channels if stacked_convs else in_channels
        conv = partial(Conv, padding=1, init=normal_001, rngs=rngs)
        self.gfl_cls = conv(inputs, dense.channels(loss_cls, num_classes), 3, bias_init=bias_for(0.01))
        self.gfl_reg = conv(inputs, 4 * (reg_max + 1), 3, bias_init=zeros)
        self.scales = nnx.List([Scale() for _ in anchor_generator.strides or ()])
        self.integral = Integral(reg_max)
        self.num_classes, self.anchor_generator, self.bbox_coder = num_classes, anchor_generator, bbox_coder
        self.reg_max, self.loss_dfl_weight = reg_max, loss_dfl_weight
        self.loss_cls, self.loss_bbox, self.train_cfg, self.test_cfg = loss_cls, loss_bbox, train_cfg, test_cfg

    def __call__(self, maps: Sequence[Array]) -> dense.Outputs:
        """Maps, finest first -> logits `[N, h, w, C]` and those of the edges `[N, h, w, 4 * (reg_max + 1)]` of each."""
        return dense.Outputs(
            tuple(self.gfl_cls(self.cls_convs(x)) for x in maps),
            tuple(scale(self.gfl_reg(self.reg_convs(x))) for scale, x in zip(self.scales, maps, strict=True)),
        )

    def loss(self, outputs: dense.Outputs, sizes: Array, canvas: dense.Size, targets: Targets) -> dict[str, Array]:
        """`loss_cls`, `loss_bbox` and `loss_dfl`."""
        logits = dense.flat(outputs.scores, dense.channels(self.loss_cls, self.num_classes))
        edges = dense.flat(outputs.boxes, 4 * (self.reg_max + 1))
        anchors, strides, rows = dense_rows(self.anchor_generator, self.train_cfg, outputs, sizes, canvas, targets)
        positive = rows.positive
        labels = jnp.where(positive, objectives.rows_of(targets.labels, rows.truth), self.num_classes)
        truth = objectives.rows_of(targets.boxes.astype(edges.dtype), rows.truth)
        truth = jnp.where(positive[..., None], truth, anchors[None]) / strides[None, :, None]
        places = (centres(anchors) / strides[:, None])[None]
        predicted = decode_distances(places, self.integral(edges))
        overlap = jax.lax.stop_gradient(jnp.where(positive, iou(predicted, truth), 0))
        weights = jax.lax.stop_gradient(jax.nn.sigmoid(logits).max(-1) * positive)
        total = jnp.maximum(weights.sum(), 1)
        wanted = encode_distances(places, truth, self.reg_max)
        loss_dfl = distribution_focal(edges.reshape(*wanted.shape, -1), wanted).sum(-1)
        loss_cls = self.loss_cls.loss_weight * quality_focal(logits, labels, overlap, self.loss_cls.beta)
        count = dense.divisor(self.train_cfg, rows).astype(edges.dtype)
        one = jnp.ones_like(total)
        loss_bbox = objectives.box_loss(self.loss_bbox, predicted, truth)
        return {
            "loss_cls": objectives.average(loss_cls, dense.weights(self.train_cfg, rows, edges.dtype), count),
            "loss_bbox": objectives.average(loss_bbox, weights, one) / total,
            "loss_dfl": self.loss_dfl_weight * objectives.average(loss_dfl, weights, 4 * one) / total,
        }

    def predict(self, outputs: dense.Outputs, sizes: Array, canvas: dense.Size) -> Detections:
        """The best boxes of all levels, after non-maximum suppression in each class."""
        levels = []
        all_anchors = dense.level_anchors(self.anchor_generator, outputs.map_sizes, canvas)
        strides = dense.level_strides(self.anchor_generator, outputs.map_sizes, canvas)
        for level, anchors in enumerate(all_anchors):
            logits = dense.flat([outputs.scores[level]], dense.channels(self.loss_cls, self.num_classes))
            scores = objectives.probabilities(self.loss_cls, logits)
            score, place, label, valid = dense.best_of_level(scores, self.test_cfg)
            edges = dense.flat([outputs.boxes[level]], 4 * (self.reg_max + 1))
            distances = self.integral(objectives.rows_of(edges, place)) * strides[level][0]
            points = centres(jnp.asarray(anchors, distances.dtype))[place]
            boxes = boxes_around(self.bbox_coder, points, distances, sizes)
            levels.append(dense.Candidates(boxes, score, label, jnp.full_like(label, level), valid))
        return dense.detections(dense.joined(levels), self.test_cfg)
