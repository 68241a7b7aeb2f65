"""The dense head of Generalized Focal Loss; Li et al. 2020, https://arxiv.org/abs/2006.04388."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.detection.boxes import centers, iou
from jaxft.detection.coders import decode_distances, encode_distances
from jaxft.detection.losses import distribution_focal, quality_focal
from jaxft.models.detectors import objectives
from jaxft.models.detectors.conv_module import bias_for, normal_001, stack, zeros
from jaxft.models.detectors.dense.anchors import level_anchors, level_strides
from jaxft.models.detectors.dense.assignment import dense_rows
from jaxft.models.detectors.dense.atss_head import ATSS_TEST, ATSS_TRAIN
from jaxft.models.detectors.dense.defaults import DISTANCES, GIOU, GROUP_NORM, ONE_ANCHOR
from jaxft.models.detectors.dense.distances import boxes_around
from jaxft.models.detectors.dense.losses import loss_divisor, row_weights
from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth, class_channels, flat
from jaxft.models.detectors.dense.selection import Candidates, best_of_level, final_detections, joined, own_places
from jaxft.models.detectors.types import (
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
from jaxft.models.layers import Buffer, Conv, Scale, along_channels

QUALITY_FOCAL = ClassLoss("quality_focal")


class Integral(nnx.Module):
    """The mean of a distribution over 0, 1, ..., `reg_max`."""

    def __init__(self, reg_max: int) -> None:
        self.project = Buffer(jnp.arange(reg_max + 1, dtype=jnp.float32))

    def __call__(self, logits: Array) -> Array:
        """`[..., 4 * (reg_max + 1)]` -> `[..., 4]`."""
        shares = nnx.softmax(logits.reshape(*logits.shape[:-1], 4, -1), -1)
        # Not a matrix product, which some devices would round.
        return (shares * along_channels(self.project[...].astype(logits.dtype), shares)).sum(-1)


class GFLHead(nnx.Module):
    """Generalized focal loss: classes that mean the overlap of their box, and a distribution for each of its edges.

    Args:
        num_classes, in_channels, feat_channels, stacked_convs, norm_cfg: as of `RetinaHead`.
        reg_max: distances reach from 0 to so many strides.
        loss_dfl_weight: of the distribution focal loss.
        anchor_generator, loss_cls, loss_bbox, train_cfg, test_cfg: see `detectors.types`.
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
        conv = partial(Conv, padding=1, wide=True, init=normal_001, rngs=rngs)
        self.gfl_cls = conv(inputs, class_channels(loss_cls, num_classes), 3, bias_init=bias_for(0.01))
        self.gfl_reg = conv(inputs, 4 * (reg_max + 1), 3, bias_init=zeros)
        self.scales = nnx.List([Scale() for _ in anchor_generator.strides or ()])
        self.integral = Integral(reg_max)
        self.num_classes, self.anchor_generator, self.bbox_coder = num_classes, anchor_generator, bbox_coder
        self.reg_max, self.loss_dfl_weight = reg_max, loss_dfl_weight
        self.loss_cls, self.loss_bbox, self.train_cfg, self.test_cfg = loss_cls, loss_bbox, train_cfg, test_cfg

    def __call__(self, maps: Sequence[Array]) -> DenseOutputs:
        """Maps, finest first -> logits `[N, h, w, C]` and those of the edges `[N, h, w, 4 * (reg_max + 1)]` of each."""
        return DenseOutputs(
            tuple(self.gfl_cls(self.cls_convs(x)) for x in maps),
            tuple(scale(self.gfl_reg(self.reg_convs(x))) for scale, x in zip(self.scales, maps, strict=True)),
        )

    def loss(
        self, outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth, targets: Targets, *, old: int = 0
    ) -> dict[str, Array]:
        """`loss_cls`, `loss_bbox` and `loss_dfl`.

        Args:
            old: the first so many classes have no part; `targets` have objects of the others alone.
        """
        logits = flat(outputs.scores, class_channels(self.loss_cls, self.num_classes))[..., old:]
        edges = flat(outputs.boxes, 4 * (self.reg_max + 1))
        anchors, strides, rows = dense_rows(self.anchor_generator, self.train_cfg, outputs, sizes, pad_shape, targets)
        positive = rows.positive
        labels = jnp.where(positive, objectives.rows_of(targets.labels, rows.truth), self.num_classes) - old
        truth = objectives.rows_of(targets.boxes.astype(edges.dtype), rows.truth)
        truth = jnp.where(positive[..., None], truth, anchors[None]) / strides[None, :, None]
        places = (centers(anchors) / strides[:, None])[None]
        predicted = decode_distances(places, self.integral(edges))
        overlap = jax.lax.stop_gradient(jnp.where(positive, iou(predicted, truth), 0))
        weights = jax.lax.stop_gradient(jax.nn.sigmoid(logits).max(-1) * positive)
        total = jnp.maximum(weights.sum(), 1)
        wanted = encode_distances(places, truth, self.reg_max)
        edges = objectives.of_weight(weights, edges, 0).reshape(*wanted.shape, -1)
        loss_dfl = objectives.scaled(self.loss_dfl_weight, distribution_focal(edges, wanted).sum(-1))
        counted = row_weights(self.train_cfg, rows, edges.dtype)
        logits = objectives.of_weight(counted, logits, 0)
        loss_cls = quality_focal(logits, labels, overlap, self.loss_cls.beta)
        count, one = loss_divisor(self.train_cfg, rows).astype(edges.dtype), jnp.ones_like(total)
        return {
            "loss_cls": objectives.average(objectives.scaled(self.loss_cls.loss_weight, loss_cls), counted, count),
            "loss_bbox": objectives.box_term(self.loss_bbox, predicted, truth, weights, one) / total,
            "loss_dfl": objectives.average(loss_dfl, weights, 4 * one) / total,
        }

    def predict(self, outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth) -> Detections:
        """The best boxes of all levels, after non-maximum suppression in each class."""
        levels = []
        all_anchors = level_anchors(self.anchor_generator, outputs.map_sizes, pad_shape)
        strides = level_strides(self.anchor_generator, outputs.map_sizes, pad_shape)
        for level, anchors in enumerate(all_anchors):
            logits = flat([outputs.scores[level]], class_channels(self.loss_cls, self.num_classes))
            scores = objectives.probabilities(self.loss_cls, logits)
            own = own_places(outputs.map_sizes[level], strides[level], sizes, 1, self.anchor_generator.divisor)
            score, place, label, valid = best_of_level(scores, own, self.test_cfg)
            edges = flat([outputs.boxes[level]], 4 * (self.reg_max + 1))
            distances = self.integral(objectives.rows_of(edges, place)) * strides[level][0]
            points = centers(anchors.astype(distances.dtype))[place]
            boxes = boxes_around(self.bbox_coder, points, distances, sizes)
            levels.append(Candidates(boxes, score, label, jnp.full_like(label, level), valid))
        return final_detections(joined(levels), self.test_cfg)
