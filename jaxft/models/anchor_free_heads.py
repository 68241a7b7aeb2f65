"""Dense heads that measure distances from the centre of a cell to the edges of its object: FCOS, ATSS, GFL.

Tian et al. 2019, https://arxiv.org/abs/1904.01355; Zhang et al. 2019, https://arxiv.org/abs/1912.02424; Li et al. 2020,
https://arxiv.org/abs/2006.04388. (ATSS codes boxes as deltas of one anchor a cell, but its head is of this kind.)
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models import dense
from jaxft.models.conv_module import bias_for, normal_001, zeros
from jaxft.models.dense_heads import stack
from jaxft.models.detection_types import (
    AnchorGenerator,
    ATSSAssigner,
    BoxLoss,
    ClassLoss,
    DeltaCoder,
    DenseTrain,
    DistanceCoder,
    Norm,
    Selection,
)
from jaxft.models.layers import Buffer, Conv, Scale

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
QUALITY_FOCAL = ClassLoss("quality_focal")
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
        self.weighted_boxes, self.geometric_scores = weighted_boxes, geometric_scores


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
