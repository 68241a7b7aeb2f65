"""Detectors that compile in seconds: four convolutions, a pyramid, and heads of the real kinds, without PyTorch."""

from itertools import pairwise

from flax import nnx
from jax import Array

from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.detectors.detector import SingleStage, TwoStage
from jaxft.models.detectors.necks.fpn import FPN
from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.cascade_roi_head import STAGES, CascadeRoIHead
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from jaxft.models.detectors.roi.standard_roi_head import StandardRoIHead
from jaxft.models.detectors.types import (
    AnchorGenerator,
    DenseTrain,
    MaxIoUAssigner,
    RandomSampler,
    RoIExtractor,
    RoITrain,
    Selection,
)
from jaxft.models.layers import BatchNorm, Conv

CLASSES, WIDTH, WIDTHS, STRIDES = 3, 8, (16, 32), (4, 8)
ANCHORS = AnchorGenerator((*STRIDES, 16), (0.5, 1.0), (4.0,))


class Backbone(nnx.Module):
    """Maps of strides 4 and 8, after batch norm."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        channels = (3, 8, *WIDTHS)
        self.convs = nnx.List(
            [
                Conv(inputs, outputs, 3, stride=2, padding=1, bias=False, rngs=rngs)
                for inputs, outputs in pairwise(channels)
            ]
        )
        self.norms = nnx.List([BatchNorm(outputs) for outputs in channels[1:]])

    def __call__(self, x: Array) -> tuple[Array, ...]:
        maps = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
            maps.append(x)
        return tuple(maps[1:])


def pyramid(rngs: nnx.Rngs) -> FPN:
    return FPN(WIDTHS, WIDTH, 3, add_extra_convs="on_output", rngs=rngs)


def retinanet(rngs: nnx.Rngs) -> SingleStage:
    head = RetinaHead(
        CLASSES,
        WIDTH,
        feat_channels=WIDTH,
        stacked_convs=1,
        anchor_generator=ANCHORS,
        test_cfg=Selection(10, 0.5, nms_pre=50, score_thr=0.0),
        rngs=rngs,
    )
    return SingleStage(Backbone(rngs=rngs), pyramid(rngs), head)


def region_proposals(rngs: nnx.Rngs) -> RPNHead:
    return RPNHead(
        WIDTH,
        feat_channels=WIDTH,
        anchor_generator=ANCHORS,
        train_cfg=DenseTrain(MaxIoUAssigner(0.7, 0.3, 0.3), RandomSampler(32, 0.5, add_gt_as_proposals=False)),
        test_cfg=Selection(20, 0.7, nms_pre=60, min_bbox_size=0),
        rngs=rngs,
    )


def box_head(rngs: nnx.Rngs) -> ConvFCBBoxHead:
    return ConvFCBBoxHead(WIDTH, CLASSES, num_shared_fcs=1, fc_out_channels=16, rngs=rngs)


def mask_rcnn(rngs: nnx.Rngs) -> TwoStage:
    """All of Faster R-CNN, and masks."""
    rpn = region_proposals(rngs)
    roi = StandardRoIHead(
        box_head(rngs),
        RoIExtractor(7, STRIDES),
        mask_head=FCNMaskHead(WIDTH, CLASSES, num_convs=1, conv_out_channels=WIDTH, rngs=rngs),
        mask_roi_extractor=RoIExtractor(14, STRIDES, sampling_ratio=2),
        train_cfg=RoITrain(MaxIoUAssigner(0.5, 0.5, 0.5, match_low_quality=False), RandomSampler(16, 0.5)),
        test_cfg=Selection(10, 0.5, score_thr=0.0),
        rngs=rngs,
    )
    return TwoStage(Backbone(rngs=rngs), pyramid(rngs), rpn, roi)


def cascade_rcnn(rngs: nnx.Rngs) -> TwoStage:
    """Two stages of boxes."""
    rpn = region_proposals(rngs)
    roi = CascadeRoIHead(
        (box_head(rngs), box_head(rngs)),
        RoIExtractor(7, STRIDES, sampling_ratio=1),
        stage_loss_weights=(1.0, 0.5),
        train_cfg=STAGES[:2],
        test_cfg=Selection(10, 0.5, score_thr=0.0),
        rngs=rngs,
    )
    return TwoStage(Backbone(rngs=rngs), pyramid(rngs), rpn, roi)
