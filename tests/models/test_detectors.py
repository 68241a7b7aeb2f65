"""Detectors with one stage against live MMDetection: narrow nets, random weights, random objects."""

from typing import Any

import pytest
from flax import nnx

from jaxft.models.backbones import ResNet
from jaxft.models.dense_heads import RetinaHead
from jaxft.models.detection_types import AnchorGenerator, BoxLoss, DeltaCoder, DenseTrain, MaxIoUAssigner, Selection
from jaxft.models.detectors import SingleStage
from jaxft.models.fpn import FPN
from tests.models import detector_parity as parity

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


DETECTORS = {"retinanet": (RETINA, retinanet, 2.0)}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_is_mmdetections(name: str) -> None:
    settings, build, gain = DETECTORS[name]
    both = parity.pair(settings, build, "float64", gain)
    batch = parity.random_batch()
    assert parity.compare_maps(both, batch) < 1e-9
    for batch in (batch, parity.random_batch(1, empty=True)):
        assert {name: value for name, value in parity.compare_losses(both, batch).items() if not value < 1e-6} == {}
    parity.assert_same_detections(*parity.predictions(both, batch))
