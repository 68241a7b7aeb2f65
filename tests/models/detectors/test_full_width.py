"""MMDetection's own configurations at full width against live MMDetection; by hand, `pytest -m zoo`."""

from typing import Any

import jax
import numpy as np
import pytest

from converters import mmdet
from jaxft.detection.masks import paste
from tests import mmdet_live
from tests.models.detectors import parity
from tests.models.detectors.outputs import compare_outputs

CONFIGS = (
    "faster-rcnn_r50_fpn_1x_coco.py",
    "mask-rcnn_r50_fpn_1x_coco.py",
    "cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "retinanet_r50_fpn_1x_coco.py",
    "fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "atss_r50_fpn_1x_coco.py",
    "gfl_r50_fpn_1x_coco.py",
    "faster-rcnn_r101-caffe_fpn_1x_coco.py",
    "faster-rcnn_x101-32x4d_fpn_1x_coco.py",
    "mask-rcnn_r50_fpn_gn-all_2x_coco.py",
)
# Of these, some values of layers that no BatchNorm keeps from the kink of their ReLU (fully connected ones, those with
# group norm) cross it by rounding in float32. In float64 none does, and that is where their gradients are judged.
ON_KINKS = (
    "mask-rcnn_r50_fpn_1x_coco.py",
    "cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "faster-rcnn_r101-caffe_fpn_1x_coco.py",
    "mask-rcnn_r50_fpn_gn-all_2x_coco.py",
)


def settings(name: str) -> dict[str, Any]:
    """The `model` of a configuration, fewer candidates: random heads make thousands of objects."""
    model = mmdet_live.config(name).model.to_dict()
    test = model["test_cfg"]
    for part in (test["rpn"], model["train_cfg"]["rpn_proposal"]) if "rpn" in test else (test,):
        part |= {"nms_pre": 100, "max_per_img": 60}
    if "rcnn" in test:
        test["rcnn"] |= {"score_thr": 0.2, "max_per_img": 10}
    return model


@pytest.mark.zoo
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_mmdetections(name: str, dtype: str) -> None:
    model = settings(name)
    masks = "mask" in name
    single = dtype == "float32"
    try:
        batch = parity.random_batch(empty=True)
        # At 3.0 some of RetinaNet's scores are 1 in float32, and which of two such boxes is kept is a matter of order.
        gain = 1.5 if "retinanet" in name else 3.0
        both = parity.pair(model, lambda rngs: mmdet.create_model(model, rngs=rngs), dtype, gain, batch)
        assert compare_outputs(both, batch) == {}
        found = parity.compare_losses(both, batch, with_masks=masks)
        limits = {"gradient": 5e-2 if name in ON_KINKS else 1e-3} if single else {}
        wrong = {key: value for key, value in found.items() if not value < limits.get(key, 1e-4 if single else 1e-6)}
        assert wrong == {}
        theirs, ours = parity.predictions(both, batch)
        parity.assert_same_detections(theirs, ours, at_least=1, tolerance=1e-4 if single else 1e-6)
        if ours.masks is not None:
            for row, (sample, (height, width)) in enumerate(zip(theirs, parity.SIZES, strict=True)):
                count = len(sample["scores"])
                pasted = paste(np.asarray(ours.masks[row][:count]), np.asarray(ours.boxes[row][:count]), height, width)
                assert (pasted == sample["masks"]).mean() >= 0.999
    finally:
        jax.clear_caches()
