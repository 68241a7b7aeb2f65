"""ATSS: positives are chosen by the objects' own statistics; boxes are deltas of one anchor a cell.

Zhang et al. 2019, https://arxiv.org/abs/1912.02424.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.detection.boxes import centers
from jaxft.detection.coders import encode_distances
from jaxft.models.detectors import objectives
from jaxft.models.detectors.conv_module import bias_for, normal_001, stack, zeros
from jaxft.models.detectors.dense.anchors import AnchorSettings, anchors_per_cell
from jaxft.models.detectors.dense.assignment import dense_rows
from jaxft.models.detectors.dense.defaults import FOCAL, GIOU, GROUP_NORM, ONE_ANCHOR
from jaxft.models.detectors.dense.distances import center_ness, center_ness_term
from jaxft.models.detectors.dense.losses import loss_divisor, row_weights
from jaxft.models.detectors.dense.outputs import DenseOutputs, HeightWidth, class_channels, flat
from jaxft.models.detectors.dense.selection import anchor_candidates, final_detections
from jaxft.models.detectors.types import (
    AnchorGenerator,
    ATSSAssigner,
    BoxLoss,
    ClassLoss,
    DeltaCoder,
    DenseTrain,
    Detections,
    Norm,
    Selection,
    Targets,
)
from jaxft.models.layers import Conv, Scale

ATSS_TEST = Selection(max_per_img=100, iou_threshold=0.6, nms_pre=1000, score_thr=0.05, min_bbox_size=0)
ATSS_TRAIN = DenseTrain(ATSSAssigner(9))
ATSS_CODER = DeltaCoder(target_stds=(0.1, 0.1, 0.2, 0.2))


class ATSSHead(nnx.Module):
    """Classes, deltas of one anchor a cell, and center-ness; positives are chosen by the objects' own statistics.

    Args:
        num_classes, in_channels, feat_channels, stacked_convs, norm_cfg: as of `RetinaHead`.
        pred_kernel_size: of the last convolutions.
        anchor_generator, bbox_coder, loss_cls, loss_bbox, train_cfg, test_cfg: see `detectors.types`.
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
        inputs, anchors = feat_channels if stacked_convs else in_channels, anchors_per_cell(anchor_generator)
        size = pred_kernel_size
        conv = partial(Conv, padding=size // 2, wide=True, init=normal_001, rngs=rngs)
        self.atss_cls = conv(inputs, anchors * class_channels(loss_cls, num_classes), size, bias_init=bias_for(0.01))
        self.atss_reg = conv(inputs, anchors * 4, size, bias_init=zeros)
        self.atss_centerness = conv(inputs, anchors, size, bias_init=zeros)
        self.scales = nnx.List([Scale() for _ in anchor_generator.strides or ()])
        self.settings = AnchorSettings(num_classes, anchor_generator, bbox_coder, True, loss_cls, loss_bbox, train_cfg)
        self.loss_centerness_weight, self.test_cfg = loss_centerness_weight, test_cfg

    def __call__(self, maps: Sequence[Array]) -> DenseOutputs:
        """Maps, finest first -> logits, box codes and center-ness of each, `[N, h, w, anchors * channels]`."""
        scores, boxes, centerness = [], [], []
        for scale, x in zip(self.scales, maps, strict=True):
            scores.append(self.atss_cls(self.cls_convs(x)))
            x = self.reg_convs(x)
            boxes.append(scale(self.atss_reg(x)))
            centerness.append(self.atss_centerness(x))
        return DenseOutputs(tuple(scores), tuple(boxes), tuple(centerness))

    def loss(self, outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth, targets: Targets) -> dict[str, Array]:
        """`loss_cls`, `loss_bbox` and `loss_centerness`."""
        settings = self.settings
        logits = flat(outputs.scores, class_channels(settings.loss_cls, settings.num_classes))
        codes, centerness = flat(outputs.boxes, 4), flat(outputs.centerness, 1)
        anchors, _, rows = dense_rows(settings.anchor_generator, settings.train_cfg, outputs, sizes, pad_shape, targets)
        labels = jnp.where(rows.positive, objectives.rows_of(targets.labels, rows.truth), settings.num_classes)
        truth = objectives.rows_of(targets.boxes.astype(codes.dtype), rows.truth)
        truth = jnp.where(rows.positive[..., None], truth, anchors[None])
        wanted = encode_distances(centers(anchors)[None], truth)
        nearness = jnp.where(rows.positive, center_ness(jnp.where(rows.positive[..., None], wanted, 1)), 0)
        count = loss_divisor(settings.train_cfg, rows).astype(codes.dtype)
        weights, positive = row_weights(settings.train_cfg, rows, codes.dtype), rows.positive.astype(codes.dtype)
        found = objectives.decode(settings.bbox_coder, anchors[None], objectives.of_weight(positive, codes, 0))
        total = jnp.maximum(nearness.sum(), 1)
        one = jnp.ones_like(total)
        return {
            "loss_cls": objectives.class_term(settings.loss_cls, logits, labels, weights, count),
            "loss_bbox": objectives.box_term(settings.loss_bbox, found, truth, nearness, one) / total,
            "loss_centerness": center_ness_term(self.loss_centerness_weight, centerness, nearness, positive, count),
        }

    def predict(self, outputs: DenseOutputs, sizes: Array, pad_shape: HeightWidth) -> Detections:
        """The best boxes of all levels, after non-maximum suppression in each class."""
        boxes = anchor_candidates(outputs, self.settings, sizes, pad_shape, self.test_cfg)
        return final_detections(boxes, self.test_cfg)
