"""Which model a checkpoint is of, and the names of old that its keys may have."""

import re
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx

from converters import load_pretrained, to_torch
from converters.__main__ import Inspect
from converters.exports import export
from converters.files import write
from converters.ledger import MismatchError
from converters.mmdet.coverage import abstract
from converters.recognition import fitting_models, mmdetection_like, source_shapes
from converters.rules import leaves
from jaxft.models import abstract_model, list_models
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import values
from tests.converters.tiny import random_state
from tests.mmdet_live import config_path


def test_a_checkpoint_of_another_architecture_is_recognised() -> None:
    state = random_state(abstract_model("resnet34", 7))
    assert fitting_models(state) == ["resnet34"]
    model = abstract_model("resnet18")
    with pytest.raises(MismatchError, match=r"does not fit this ResNet .* Its keys and shapes are those of resnet34"):
        load_pretrained(model, state)
    assert all(isinstance(value, jax.ShapeDtypeStruct) for value in values(model).values())


def test_the_nearest_architecture_is_named_where_none_fits() -> None:
    state = random_state(abstract_model("resnet34", 7))
    del state["layer4.2.conv2.weight"]
    with pytest.raises(MismatchError, match=r"Of all models, resnet34 has most of its keys and shapes \(99%\)"):
        load_pretrained(abstract_model("resnet18"), state)
    with pytest.raises(MismatchError, match=r"nothing was loaded\. Skip what is meant to differ by name\.\n"):
        load_pretrained(abstract_model("resnet18"), {"strange": np.zeros(3, np.float32)})


class OldNames(nnx.Module):
    def __init__(self, num_classes: int = 2, *, rngs: nnx.Rngs) -> None:
        self.denselayer1 = Normalized()


class Normalized(nnx.Module):
    def __init__(self) -> None:
        self.norm1 = BatchNorm(3)


def test_a_densenets_keys_of_old_are_understood() -> None:
    model = OldNames(rngs=nnx.Rngs(0))
    names = {"weight": 2, "bias": 3, "running_mean": 4, "running_var": 5}
    load_pretrained(model, {f"denselayer1.norm.1.{key}": np.full(3, v, np.float32) for key, v in names.items()})
    assert float(model.denselayer1.norm1.var[0]) == 5


def test_a_vits_keys_of_old_are_understood() -> None:
    state = random_state(abstract_model("vit_b_32"))
    new = {"0": "linear_1", "3": "linear_2"}
    old = {re.sub(r"\.mlp\.([03])\.", lambda found: f".mlp.{new[found[1]]}.", key): v for key, v in state.items()}
    assert len(old.keys() - state.keys()) == 12 * 2 * 2
    model = abstract_model("vit_b_32")
    load_pretrained(model, old)
    exported = to_torch(model)
    assert exported.keys() == state.keys()
    assert all(np.array_equal(exported[key], state[key]) for key in state)
    assert fitting_models(old) == ["vit_b_32"]
    with torch.device("meta"):
        theirs = torchvision.models.vit_b_32(weights=None)
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in old.items()}, strict=True, assign=True)


@cache
def detector_of_torchvisions(name: str, num_classes: int) -> dict[str, np.ndarray]:
    """A state dict as torchvision makes it where no weights are asked for: every BatchNorm counts its batches."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models.detection, name)(
            weights=None, weights_backbone=None, num_classes=num_classes
        )
    return {
        key: np.zeros(tensor.shape, np.int64) if key.endswith("num_batches_tracked") else np.ones(tensor.shape, "f4")
        for key, tensor in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "num_classes", "counts"),
    [("maskrcnn_resnet50_fpn", 4, 53), ("retinanet_resnet50_fpn", 3, 53), ("fcos_resnet50_fpn", 3, 53)],
)
def test_a_detector_of_torchvisions_without_weights_is_understood(name: str, num_classes: int, counts: int) -> None:
    state = detector_of_torchvisions(name, num_classes)
    model = abstract_model(name, 3)
    ledger = load_pretrained(model, state)
    skipped = ledger.having("skipped")
    assert len(skipped) == counts
    assert all(row.key.endswith("num_batches_tracked") for row in skipped)
    assert len(ledger.having("mapped")) == len(state) - counts
    assert fitting_models(state) == [name]
    assert fitting_models(to_torch(model)) == [name]


def test_inspecting_says_which_detector_a_file_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(random_state(abstract_model("retinanet_efficientnet_lite0_fpn", 5)), tmp_path / "own.pth")
    Inspect(source=str(tmp_path / "own.pth")).run()
    assert "312 tensors; fits: retinanet_efficientnet_lite0_fpn" in capsys.readouterr().out
    write({"backbone.conv1.weight": np.ones(3, "f4"), "bbox_head.fc.weight": np.ones(3, "f4")}, tmp_path / "mm.pth")
    Inspect(source=str(tmp_path / "mm.pth")).run()
    assert "no model of jaxft by name; if it is MMDetection's, give its configuration" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("faster-rcnn_r50_fpn_1x_coco.py", "Faster R-CNN on ResNet-50"),
        ("cascade-mask-rcnn_x101-32x4d_fpn_1x_coco.py", "Cascade Mask R-CNN on ResNeXt-101"),
        ("retinanet_r18_fpn_1x_coco.py", "RetinaNet on ResNet-18"),
        ("rpn_r50_fpn_1x_coco.py", "RPN on ResNet-50"),
    ],
)
def test_a_detector_of_mmdetections_is_recognised_by_its_keys(config: str, expected: str) -> None:
    model = abstract(config_path(config))
    state = {leaf.key: np.broadcast_to(np.float32(0), leaf.source_shape) for leaf in leaves(model)}
    assert mmdetection_like(state) == expected
    assert fitting_models(state) == []


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["bbox_head.atss_cls.weight"], "ATSS on another backbone"),
        (["bbox_head.gfl_cls.weight"], "GFL on another backbone"),
        (["bbox_head.conv_centerness.weight", "backbone.stage4.0.weight"], "FCOS on HRNet"),
        (["bbox_head.fcos_cls.weight"], "FCOS on another backbone"),
        (["roi_head.bbox_head.fc_cls.weight", "roi_head.mask_head.x", "rpn_head.x"], "Mask R-CNN on another backbone"),
        (["roi_head.bbox_head.0.fc_cls.weight", "rpn_head.x"], "Cascade R-CNN on another backbone"),
        (["bbox_head.multi_level_conv_cls.0.weight"], ""),
        (["head.fc.weight"], ""),
    ],
)
def test_a_head_of_mmdetections_is_recognised_by_its_keys(keys: list[str], expected: str) -> None:
    assert mmdetection_like(dict.fromkeys([*keys, "backbone.conv1.weight"], np.ones(1))) == expected


def test_a_checkpoint_of_mmdetections_for_a_model_by_name_wants_its_configuration() -> None:
    state = {"backbone.conv1.weight": np.ones((64, 3, 7, 7), "f4"), "bbox_head.retina_cls.weight": np.ones(3, "f4")}
    with pytest.raises(MismatchError, match="MMDetection's RetinaNet on another backbone, whose configuration descr"):
        load_pretrained(abstract_model("retinanet_resnet50_fpn", 3), state)


def test_counters_alone_are_no_other_number_of_classes() -> None:
    state = random_state(abstract_model("resnet18", 3))
    del state["bn1.num_batches_tracked"]
    with pytest.raises(MismatchError, match=r"does not fit this ResNet \(1 reason\); .* Skip what is meant to differ"):
        load_pretrained(abstract_model("resnet18", 3), state)


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_torchvision_takes_an_export_in_both_spellings_of_its_batch_norms(name: str, tmp_path: Path) -> None:
    model = abstract_model(name, 3)
    load_pretrained(model, detector_of_torchvisions(name, 4 if "rcnn" in name else 3))
    export(model, tmp_path / "m.pth", classes=("a", "b", "c"))
    state = torch.load(tmp_path / "m.pth", weights_only=True)
    with torch.device("meta"):
        theirs = getattr(torchvision.models.detection, name)(
            weights=None, weights_backbone=None, num_classes=4 if "rcnn" in name else 3
        )
        counts = sum(key.endswith("num_batches_tracked") for key in theirs.state_dict())
        assert counts == 53
        theirs.load_state_dict(state, strict=True, assign=True)
        body = torchvision.models.resnet50(norm_layer=torchvision.ops.misc.FrozenBatchNorm2d)
    theirs.backbone.body = torchvision.models._utils.IntermediateLayerGetter(
        body, {f"layer{number}": str(number - 1) for number in range(1, 5)}
    )
    assert not any(key.endswith("num_batches_tracked") for key in theirs.state_dict())
    theirs.load_state_dict(state, strict=True, assign=True)
    load_pretrained(abstract_model(name, 3), {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})


def test_another_detector_is_named() -> None:
    state = detector_of_torchvisions("maskrcnn_resnet50_fpn", 4)
    with pytest.raises(MismatchError, match=r"this SingleStage .* Its keys and shapes are those of maskrcnn_resnet50"):
        load_pretrained(abstract_model("retinanet_resnet50_fpn", 3), state)
    with pytest.raises(MismatchError, match=r"It is maskrcnn_resnet50_fpn with another number of classes: .*@head"):
        load_pretrained(abstract_model("maskrcnn_resnet50_fpn", 7), state)
    model = abstract_model("maskrcnn_resnet50_fpn", 7)
    new = load_pretrained(model, state, skip=["@head"]).having("new")
    assert {row.path.rpartition(".")[0].rpartition(".")[2] for row in new} == {"fc_cls", "fc_reg", "conv_logits"}


def test_only_detectors_are_built_for_a_detectors_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr("converters.recognition.source_shapes", lambda name: built.append(name) or {})
    fitting_models({"backbone.fpn.weight": np.ones(3)})
    assert set(built) == set(list_models("detection"))
    built.clear()
    fitting_models({"fc.weight": np.ones(3)})
    assert not set(built) & set(list_models("detection"))


@pytest.mark.zoo
def test_no_two_models_are_confused() -> None:
    fits = {
        name: fitting_models({key: np.broadcast_to(np.float32(0), shape) for key, shape in source_shapes(name).items()})
        for name in list_models()
    }
    twins = [f"fasterrcnn_mobilenet_v3_large_{form}" for form in ("320_fpn", "fpn")]  # they differ in sizes of photos
    assert fits == {name: twins if name in twins else [name] for name in list_models()}
