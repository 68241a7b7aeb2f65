"""Detectors with two stages against live MMDetection: narrow nets, the same samples, random objects."""

from typing import Any

import numpy as np
import pytest
from flax import nnx

from jaxft.detection.masks import paste
from jaxft.models.detectors.backbones.resnet import ResNet
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.detectors.detector import TwoStage
from jaxft.models.detectors.necks.fpn import FPN
from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.cascade_roi_head import CascadeRoIHead
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from jaxft.models.detectors.roi.standard_roi_head import StandardRoIHead
from jaxft.models.detectors.types import (
    AnchorGenerator,
    BoxLoss,
    DeltaCoder,
    DenseTrain,
    MaxIoUAssigner,
    Norm,
    RandomSampler,
    RoIExtractor,
    RoITrain,
    Selection,
)
from tests.models.detectors import parity
from tests.models.detectors.other_targets import changed_by_crowds, not_finite
from tests.models.detectors.outputs import compare_outputs

WIDTHS = [8, 16, 32, 64]
STRIDES = [4, 8, 16, 32]
ROWS = 24  # regions of an image in training


def assigner(iou: float, *, low_quality: bool) -> dict[str, Any]:
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": iou,
        "neg_iou_thr": iou if not low_quality else 0.3,
        "min_pos_iou": iou if not low_quality else 0.3,
        "match_low_quality": low_quality,
        "ignore_iof_thr": 0.6,
    }


def rcnn(iou: float, masks: bool) -> dict[str, Any]:
    return {
        "assigner": assigner(iou, low_quality=False),
        "sampler": {"type": "RandomSampler", "num": ROWS, "pos_fraction": 0.5, "neg_pos_ub": -1,
                    "add_gt_as_proposals": True},
        "pos_weight": -1,
        "debug": False,
    } | ({"mask_size": 28} if masks else {})  # fmt: skip


def extractor(size: int, ratio: int) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": ratio},
        "out_channels": 16,
        "featmap_strides": STRIDES,
    }


def box_head(stds: float, *, agnostic: bool, convs: int = 0) -> dict[str, Any]:
    return {
        "type": "ConvFCBBoxHead",
        "num_shared_convs": convs,
        "num_shared_fcs": 1 if convs else 2,
        "in_channels": 16,
        "conv_out_channels": 8,
        "fc_out_channels": 12,
        "roi_feat_size": 7,
        "num_classes": parity.CLASSES,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4,
                       "target_stds": [stds, stds, 2 * stds, 2 * stds]},
        "reg_class_agnostic": agnostic,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0},
    } | ({"norm_cfg": {"type": "GN", "num_groups": 4}} if convs else {})  # fmt: skip


def two_stage(kind: str, roi_head: dict[str, Any], train: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "norm_eval": True},
        "neck": {"type": "FPN", "in_channels": WIDTHS, "out_channels": 16, "num_outs": 5},
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": 16,
            "feat_channels": 16,
            "anchor_generator": {"type": "AnchorGenerator", "scales": [8], "ratios": [0.5, 1.0],
                                 "strides": [*STRIDES, 64]},
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4},
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "roi_head": roi_head,
        "train_cfg": {
            "rpn": {
                "assigner": assigner(0.7, low_quality=True),
                "sampler": {"type": "RandomSampler", "num": 32, "pos_fraction": 0.5, "neg_pos_ub": -1,
                            "add_gt_as_proposals": False},
                "allowed_border": 0,
                "pos_weight": -1,
                "debug": False,
            },
            "rpn_proposal": {"nms_pre": 60, "max_per_img": 40, "nms": {"type": "nms", "iou_threshold": 0.7},
                             "min_bbox_size": 0},
            "rcnn": train,
        },
        "test_cfg": {
            "rpn": {"nms_pre": 50, "max_per_img": 30, "nms": {"type": "nms", "iou_threshold": 0.7},
                    "min_bbox_size": 0},
            "rcnn": {"score_thr": 0.2, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 10,
                     "mask_thr_binary": 0.5},
        },
    }  # fmt: skip


MASK_HEAD = {
    "type": "FCNMaskHead",
    "num_convs": 1,
    "in_channels": 16,
    "conv_out_channels": 8,
    "num_classes": parity.CLASSES,
    "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
}


def standard(masks: bool, convs: int) -> dict[str, Any]:
    head = {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": extractor(7, 0),
        "bbox_head": box_head(0.1, agnostic=False, convs=convs),
    }
    if masks:
        head |= {"mask_roi_extractor": extractor(14, 2), "mask_head": MASK_HEAD}
    return two_stage("MaskRCNN" if masks else "FasterRCNN", head, rcnn(0.5, masks))


def cascade(masks: bool) -> dict[str, Any]:
    head = {
        "type": "CascadeRoIHead",
        "num_stages": 2,
        "stage_loss_weights": [1, 0.5],
        "bbox_roi_extractor": extractor(7, 0),
        "bbox_head": [box_head(stds, agnostic=True) for stds in (0.1, 0.05)],
    }
    if masks:
        head |= {"mask_roi_extractor": extractor(14, 0), "mask_head": MASK_HEAD}
    return two_stage("CascadeRCNN", head, [rcnn(iou, masks) for iou in (0.4, 0.5)])


def our_rcnn(iou: float) -> RoITrain:
    assign = MaxIoUAssigner(iou, iou, iou, ignore_iof_thr=0.6, match_low_quality=False)
    return RoITrain(assign, RandomSampler(ROWS, 0.5))


def our_detector(rngs: nnx.Rngs, roi_head: Any) -> TwoStage:
    rpn = RPNHead(
        16,
        feat_channels=16,
        anchor_generator=AnchorGenerator((*STRIDES, 64), (0.5, 1.0), (8.0,)),
        loss_bbox=BoxLoss("l1"),
        train_cfg=DenseTrain(
            MaxIoUAssigner(0.7, 0.3, 0.3, ignore_iof_thr=0.6),
            RandomSampler(32, 0.5, add_gt_as_proposals=False),
            allowed_border=0,
        ),
        test_cfg=Selection(30, 0.7, nms_pre=50, min_bbox_size=0),
        rngs=rngs,
    )
    return TwoStage(
        ResNet(18, base_channels=8, rngs=rngs),
        FPN(WIDTHS, 16, 5, rngs=rngs),
        rpn,
        roi_head,
        rpn_proposal=Selection(40, 0.7, nms_pre=60, min_bbox_size=0),
    )


def our_box_head(rngs: nnx.Rngs, stds: float, *, agnostic: bool, convs: int = 0) -> ConvFCBBoxHead:
    return ConvFCBBoxHead(
        16,
        parity.CLASSES,
        num_shared_convs=convs,
        num_shared_fcs=1 if convs else 2,
        conv_out_channels=8,
        fc_out_channels=12,
        norm_cfg=Norm("GN", 4) if convs else None,
        bbox_coder=DeltaCoder(target_stds=(stds, stds, 2 * stds, 2 * stds)),
        reg_class_agnostic=agnostic,
        rngs=rngs,
    )


def our_mask_head(rngs: nnx.Rngs) -> FCNMaskHead:
    return FCNMaskHead(16, parity.CLASSES, num_convs=1, conv_out_channels=8, rngs=rngs)


SEEN = RoIExtractor(7, tuple(STRIDES))
TEST = Selection(10, 0.5, score_thr=0.2)


def our_standard(rngs: nnx.Rngs, *, masks: bool, convs: int) -> TwoStage:
    head = StandardRoIHead(
        our_box_head(rngs, 0.1, agnostic=False, convs=convs),
        SEEN,
        mask_head=our_mask_head(rngs) if masks else None,
        mask_roi_extractor=RoIExtractor(14, tuple(STRIDES), sampling_ratio=2),
        train_cfg=our_rcnn(0.5),
        test_cfg=TEST,
        rngs=rngs,
    )
    return our_detector(rngs, head)


def our_cascade(rngs: nnx.Rngs, *, masks: bool) -> TwoStage:
    head = CascadeRoIHead(
        [our_box_head(rngs, stds, agnostic=True) for stds in (0.1, 0.05)],
        SEEN,
        mask_head=[our_mask_head(rngs) for _ in range(2)] if masks else None,
        mask_roi_extractor=RoIExtractor(14, tuple(STRIDES)),
        stage_loss_weights=(1.0, 0.5),
        train_cfg=(our_rcnn(0.4), our_rcnn(0.5)),
        test_cfg=TEST,
        rngs=rngs,
    )
    return our_detector(rngs, head)


DETECTORS = {
    "faster": (standard(False, 1), lambda rngs: our_standard(rngs, masks=False, convs=1), False),
    "mask": (standard(True, 0), lambda rngs: our_standard(rngs, masks=True, convs=0), True),
    "cascade_mask": (cascade(True), lambda rngs: our_cascade(rngs, masks=True), True),
}
# For time's sake: the cascade has all of their parts but the one head of regions, trained beside torchvision's.
BY_HAND = ("faster", "mask")


@pytest.mark.zoo
@pytest.mark.parametrize("name", DETECTORS)
def test_candidates_are_mmdetections_before_suppression(name: str) -> None:
    settings, build, _ = DETECTORS[name]
    both = parity.pair(settings, build, "float64", 3.0)
    parity.suppress_nothing(both)
    parity.assert_same_detections(*parity.predictions(both, parity.random_batch()), at_least=2)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.zoo] if name in BY_HAND else []) for name in DETECTORS]
)
def test_a_detector_is_mmdetections(name: str) -> None:
    settings, build, masks = DETECTORS[name]
    both = parity.pair(settings, build, "float64", 3.0)
    assert compare_outputs(both, parity.random_batch()) == {}
    for batch in (parity.random_batch(), parity.random_batch(1, empty=True)):
        found = parity.compare_losses(both, batch, with_masks=masks)
        assert {name: value for name, value in found.items() if not value < 1e-6} == {}
    changed = changed_by_crowds(both, parity.random_batch(), with_masks=masks)
    last = "s1." if "cascade" in name else ""
    assert changed["background"] >= {"loss_rpn_cls", f"{last}loss_cls"}
    assert changed["objects"] >= {"loss_rpn_cls", "loss_rpn_bbox", f"{last}loss_cls", f"{last}loss_bbox"}
    assert not any(not_finite(both, parity.random_batch(), with_masks=masks).values())
    theirs, ours = parity.predictions(both, batch)
    parity.assert_same_detections(theirs, ours, at_least=2)
    if masks:
        assert ours.masks is not None
        for row, (sample, (height, width)) in enumerate(zip(theirs, parity.SIZES, strict=True)):
            count = len(sample["scores"])
            pasted = paste(np.asarray(ours.masks[row][:count]), np.asarray(ours.boxes[row][:count]), height, width)
            assert (pasted == sample["masks"]).mean() >= 0.999
            assert 0 < pasted.mean() < 0.99
