"""Detectors with one stage against live MMDetection: narrow nets, random weights, random objects."""

from functools import partial
from typing import Any

import pytest
from flax import nnx

from jaxft.models.detectors.backbones.resnet import ResNet
from jaxft.models.detectors.dense.atss_head import ATSSHead
from jaxft.models.detectors.dense.fcos_head import FCOSHead
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.detectors.detector import SingleStage
from jaxft.models.detectors.necks.fpn import FPN
from jaxft.models.detectors.types import (
    AnchorGenerator,
    ATSSAssigner,
    BoxLoss,
    DeltaCoder,
    DenseTrain,
    MaxIoUAssigner,
    Norm,
    RandomSampler,
    Selection,
)
from tests.models.detectors import parity
from tests.models.detectors.other_targets import changed_by_crowds, not_finite
from tests.models.detectors.outputs import compare_outputs

BACKBONE = {
    "type": "ResNet",
    "depth": 18,
    "base_channels": 8,
    "num_stages": 4,
    "out_indices": (0, 1, 2, 3),
    "norm_cfg": {"type": "BN", "requires_grad": True},
    "norm_eval": True,
    "style": "pytorch",
}
WIDTHS = [8, 16, 32, 64]


def backbone(rngs: nnx.Rngs) -> ResNet:
    return ResNet(18, base_channels=8, rngs=rngs)


def neck(extra: str | bool) -> dict[str, Any]:
    return {
        "type": "FPN",
        "in_channels": WIDTHS,
        "out_channels": 16,
        "start_level": 1,
        "add_extra_convs": extra,
        "num_outs": 4,
    }


RETINA = {
    "type": "RetinaNet",
    "backbone": BACKBONE,
    "neck": neck("on_input"),
    "bbox_head": {
        "type": "RetinaHead",
        "num_classes": parity.CLASSES,
        "in_channels": 16,
        "stacked_convs": 1,
        "feat_channels": 16,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "octave_base_scale": 4,
            "scales_per_octave": 2,
            "ratios": [0.5, 1.0],
            "strides": [8, 16, 32, 64],
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4},
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    },
    "train_cfg": {
        "assigner": {
            "type": "MaxIoUAssigner",
            "pos_iou_thr": 0.5,
            "neg_iou_thr": 0.4,
            "min_pos_iou": 0,
            "ignore_iof_thr": 0.5,
        },
        "sampler": {"type": "PseudoSampler"},
        "allowed_border": -1,
        "pos_weight": -1,
        "debug": False,
    },
    "test_cfg": {
        "nms_pre": 200,
        "min_bbox_size": 0,
        "score_thr": 0.3,
        "nms": {"type": "nms", "iou_threshold": 0.5},
        "max_per_img": 20,
    },
}


DISTANCE_TEST = RETINA["test_cfg"] | {"score_thr": 0.25, "nms": {"type": "nms", "iou_threshold": 0.6}}
ATSS_TRAIN = {
    "assigner": {"type": "ATSSAssigner", "topk": 4, "ignore_iof_thr": 0.5},
    "allowed_border": -1,
    "pos_weight": -1,
    "debug": False,
}
NARROW = {"num_classes": parity.CLASSES, "in_channels": 16, "stacked_convs": 1, "feat_channels": 16}
GROUPS = {"norm_cfg": {"type": "GN", "num_groups": 4, "requires_grad": True}}
SQUARE = {
    "anchor_generator": {
        "type": "AnchorGenerator",
        "ratios": [1.0],
        "octave_base_scale": 8,
        "scales_per_octave": 1,
        "strides": [8, 16, 32, 64],
    }
}
FOCAL = RETINA["bbox_head"]["loss_cls"]


def dense(kind: str, extra: str, head: dict[str, Any], train: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "type": kind,
        "backbone": BACKBONE,
        "neck": neck(extra) | {"relu_before_extra_convs": True},
        "bbox_head": head,
        "train_cfg": train,
        "test_cfg": DISTANCE_TEST,
    }


FCOS_RANGES = ((-1, 24), (24, 48), (48, 96), (96, 1e8))
FCOS = {
    "type": "FCOSHead",
    **NARROW,
    **GROUPS,
    "strides": [8, 16, 32, 64],
    "regress_ranges": FCOS_RANGES,
    "loss_cls": FOCAL,
    "loss_bbox": {"type": "IoULoss", "loss_weight": 1.0},
    "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
}
FCOS_CENTRE = FCOS | {
    "center_sampling": True,
    "norm_on_bbox": True,
    "centerness_on_reg": True,
    "conv_bias": True,
    "loss_bbox": {"type": "GIoULoss", "loss_weight": 1.0},
}
ATSS = {
    "type": "ATSSHead",
    **NARROW,
    **GROUPS,
    **SQUARE,
    "bbox_coder": {
        "type": "DeltaXYWHBBoxCoder",
        "target_means": [0.0] * 4,
        "target_stds": [0.1, 0.1, 0.2, 0.2],
    },
    "loss_cls": FOCAL,
    "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
    "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
}
GFL = {
    "type": "GFLHead",
    **NARROW,
    **GROUPS,
    **SQUARE,
    "reg_max": 8,
    "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
    "loss_dfl": {"type": "DistributionFocalLoss", "loss_weight": 0.25},
    "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
}


RPN = {
    "type": "RPN",
    "backbone": BACKBONE,
    "neck": neck("on_output") | {"relu_before_extra_convs": True},
    "rpn_head": {
        "type": "RPNHead",
        "in_channels": 16,
        "feat_channels": 16,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [4],
            "ratios": [0.5, 1.0],
            "strides": [8, 16, 32, 64],
        },
        "bbox_coder": RETINA["bbox_head"]["bbox_coder"],
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    },
    "train_cfg": {
        "rpn": {
            "assigner": {
                "type": "MaxIoUAssigner",
                "pos_iou_thr": 0.7,
                "neg_iou_thr": 0.3,
                "min_pos_iou": 0.3,
                "ignore_iof_thr": 0.5,
            },
            "sampler": {"type": "RandomSampler", "num": 64, "pos_fraction": 0.5, "add_gt_as_proposals": False},
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        }
    },
    "test_cfg": {
        "rpn": {"nms_pre": 200, "max_per_img": 20, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
    },
}


def retinanet(rngs: nnx.Rngs) -> SingleStage:
    head = RetinaHead(
        parity.CLASSES,
        16,
        stacked_convs=1,
        feat_channels=16,
        anchor_generator=AnchorGenerator((8, 16, 32, 64), (0.5, 1.0), octave_base_scale=4, scales_per_octave=2),
        bbox_coder=DeltaCoder(),
        loss_bbox=BoxLoss("l1"),
        train_cfg=DenseTrain(MaxIoUAssigner(0.5, 0.4, 0, ignore_iof_thr=0.5)),
        test_cfg=Selection(20, 0.5, nms_pre=200, score_thr=0.3, min_bbox_size=0),
        rngs=rngs,
    )
    fpn = FPN(WIDTHS, 16, 4, start_level=1, add_extra_convs="on_input", rngs=rngs)
    return SingleStage(backbone(rngs), fpn, head)


GROUP_NORM = Norm("GN", 4)
TEST = Selection(20, 0.6, nms_pre=200, score_thr=0.25, min_bbox_size=0)
OUR_ATSS_TRAIN = DenseTrain(ATSSAssigner(4, ignore_iof_thr=0.5))
OUR_SQUARE = AnchorGenerator((8, 16, 32, 64), (1.0,), octave_base_scale=8, scales_per_octave=1)


def single(rngs: nnx.Rngs, extra: str, head: Any) -> SingleStage:
    fpn = FPN(WIDTHS, 16, 4, start_level=1, add_extra_convs=extra, relu_before_extra_convs=True, rngs=rngs)
    return SingleStage(backbone(rngs), fpn, head)


def fcos(rngs: nnx.Rngs, *, center: bool) -> SingleStage:
    head = FCOSHead(
        parity.CLASSES,
        16,
        stacked_convs=1,
        feat_channels=16,
        norm_cfg=GROUP_NORM,
        strides=(8, 16, 32, 64),
        regress_ranges=FCOS_RANGES,
        center_sampling=center,
        norm_on_bbox=center,
        centerness_on_reg=center,
        conv_bias=True if center else None,
        loss_bbox=BoxLoss("giou" if center else "iou"),
        test_cfg=TEST,
        rngs=rngs,
    )
    return single(rngs, "on_output", head)


def atss(rngs: nnx.Rngs) -> SingleStage:
    head = ATSSHead(
        parity.CLASSES,
        16,
        stacked_convs=1,
        feat_channels=16,
        norm_cfg=GROUP_NORM,
        anchor_generator=OUR_SQUARE,
        train_cfg=OUR_ATSS_TRAIN,
        test_cfg=TEST,
        rngs=rngs,
    )
    return single(rngs, "on_output", head)


def gfl(rngs: nnx.Rngs) -> SingleStage:
    head = GFLHead(
        parity.CLASSES,
        16,
        stacked_convs=1,
        feat_channels=16,
        reg_max=8,
        norm_cfg=GROUP_NORM,
        anchor_generator=OUR_SQUARE,
        train_cfg=OUR_ATSS_TRAIN,
        test_cfg=TEST,
        rngs=rngs,
    )
    return single(rngs, "on_lateral", head)


def rpn(rngs: nnx.Rngs) -> SingleStage:
    head = RPNHead(
        16,
        feat_channels=16,
        anchor_generator=AnchorGenerator((8, 16, 32, 64), (0.5, 1.0), (4.0,)),
        train_cfg=DenseTrain(
            MaxIoUAssigner(0.7, 0.3, 0.3, ignore_iof_thr=0.5), RandomSampler(64, 0.5, add_gt_as_proposals=False)
        ),
        test_cfg=Selection(20, 0.7, nms_pre=200, min_bbox_size=0),
        rngs=rngs,
    )
    return single(rngs, "on_output", head)


DETECTORS = {
    "rpn": (RPN, rpn, 2.0),
    "retinanet": (RETINA, retinanet, 2.0),
    "fcos": (dense("FCOS", "on_output", FCOS, None), partial(fcos, center=False), 1.0),
    "fcos_center": (dense("FCOS", "on_output", FCOS_CENTRE, None), partial(fcos, center=True), 1.0),
    "atss": (dense("ATSS", "on_output", ATSS, ATSS_TRAIN), atss, 2.0),
    "gfl": (dense("GFL", "on_lateral", GFL, ATSS_TRAIN), gfl, 2.0),
}
# For time's sake: tested within another, or trained beside torchvision's.
BY_HAND = ("rpn", "fcos", "fcos_center")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.zoo] if name in BY_HAND else []) for name in DETECTORS]
)
def test_a_detector_is_mmdetections(name: str) -> None:
    settings, build, gain = DETECTORS[name]
    both = parity.pair(settings, build, "float64", gain)
    batch = parity.random_batch()
    assert compare_outputs(both, batch) == {}
    for photos in (batch, parity.random_batch(1, empty=True)):
        assert {name: value for name, value in parity.compare_losses(both, photos).items() if not value < 1e-6} == {}
    changed = changed_by_crowds(both, batch)
    # Cells in crowds are background to MMDetection's FCOS; the others leave such anchors out.
    terms = ("loss_rpn_cls", "loss_rpn_bbox") if name == "rpn" else ("loss_cls", "loss_bbox")
    assert changed["background"] == set() if name.startswith("fcos") else terms[0] in changed["background"]
    assert changed["objects"] >= {*terms}
    assert not any(not_finite(both, batch).values())
    parity.assert_same_detections(*parity.predictions(both, batch))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "retinanet" else [pytest.mark.zoo]) for name in DETECTORS]
)
def test_candidates_are_mmdetections_before_suppression(name: str) -> None:
    settings, build, gain = DETECTORS[name]
    both = parity.pair(settings, build, "float64", gain)
    parity.suppress_nothing(both)
    parity.assert_same_detections(*parity.predictions(both, parity.random_batch()), at_least=15)
