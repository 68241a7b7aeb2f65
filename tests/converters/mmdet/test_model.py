"""Detectors from MMDetection's configurations, against live MMDetection."""

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained, to_torch
from converters.__main__ import main
from converters.files import write
from converters.ledger import MismatchError
from converters.mmdet import class_counts, create_model, model_dict, with_classes
from converters.mmdet.coverage import abstract, survey
from converters.mmdet.file import read
from converters.mmdet.model import structure
from converters.rules import leaves
from converters.sources import load
from jaxft.errors import UserError
from tests import mmdet_live
from tests.converters.tiny import random_state
from tests.small import call, user_error

torch = pytest.importorskip("torch")

REPRESENTATIVES = (
    "cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "atss_r50_fpn_1x_coco.py",
    "gfl_r50_fpn_1x_coco.py",
    "rpn_r50-caffe_fpn_1x_coco.py",
    "retinanet_regnetx-800MF_fpn_1x_coco.py",
    "faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py",
    "mask-rcnn_r50-gcb-r16-c3-c5_fpn_1x_coco.py",
)


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    return {leaf.key: leaf.source_shape for leaf in leaves(model)}


def live_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in mmdet_live.build(model).state_dict().items()}


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_every_key_and_shape_is_mmdetections(name: str) -> None:
    model = mmdet_live.config(name).model
    assert shapes(abstract(model.to_dict())) == live_shapes(model)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_configuration_of_the_package_that_is_built_has_mmdetections_keys() -> None:
    compared, built = set(), []
    for verdict in survey(mmdet_live.CONFIGS):
        if not verdict.keys:
            continue
        built.append(verdict.path)
        model = model_dict(verdict.path)
        if structure(model) not in compared:
            compared.add(structure(model))
            ours = shapes(abstract(model))
            assert ours == live_shapes(model), verdict.path
            assert len(ours) == verdict.keys
    assert len(built) >= 250


def small(name: str, classes: int = 3) -> dict[str, Any]:
    """A narrow model dict of a configuration: ResNet-18 of 8 channels, 16 channels elsewhere."""
    model = copy.deepcopy(mmdet_live.config(name).model.to_dict())
    model["backbone"] |= {"depth": 18, "base_channels": 8, "init_cfg": None}
    model["neck"] |= {"in_channels": [8, 16, 32, 64], "out_channels": 16}
    head = model.get("roi_head", {})
    parts = [model.get("bbox_head"), model.get("rpn_head"), head.get("mask_head")]
    boxes = head.get("bbox_head", [])
    for part in [*parts, *(boxes if isinstance(boxes, list) else [boxes])]:
        if part:
            part["in_channels"] = 16
            part |= {key: 32 for key in ("feat_channels", "fc_out_channels", "conv_out_channels") if key in part}
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        if extractor in head:
            head[extractor]["out_channels"] = 16
    return with_classes(model, classes)


@pytest.mark.parametrize("name", ["mask-rcnn_r50_fpn_1x_coco.py", "gfl_r50_fpn_1x_coco.py"])
def test_weights_go_there_and_back_and_mmdetection_loads_them_strictly(name: str) -> None:
    model = small(name)
    theirs, ours = mmdet_live.build(model), abstract(model)
    state = {key: value.numpy().copy() for key, value in theirs.state_dict().items()}
    ledger = load_pretrained(ours, state)
    assert len(ledger.having("mapped")) == len(state)
    exported = to_torch(ours)
    assert exported.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)
        assert exported[key].dtype == value.dtype, key
    drawn = {key: torch.from_numpy(value) for key, value in random_state(ours).items()}
    load_pretrained(ours, {key: value.numpy() for key, value in drawn.items()})
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in to_torch(ours).items()}, strict=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, drawn[key].to(value.dtype)), key


def test_keys_of_older_versions_go_where_mmdetection_puts_them() -> None:
    model = small("fcos_r50-caffe_fpn_gn-head_1x_coco.py")
    theirs, ours = mmdet_live.build(model), abstract(model)
    state = random_state(ours)
    older = dict(state)
    for old, new in (("fcos_cls", "conv_cls"), ("fcos_reg", "conv_reg"), ("centerness", "conv_centerness")):
        older = {key.replace(f"head.{new}.", f"head.{old}."): value for key, value in older.items()}
    assert older.keys() != state.keys()
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in older.items()}, strict=True)
    load_pretrained(ours, older)
    for key, value in to_torch(ours).items():
        np.testing.assert_array_equal(value, theirs.state_dict()[key].numpy(), err_msg=key)


def test_the_number_of_classes_is_that_of_every_head() -> None:
    model = mmdet_live.config("cascade-mask-rcnn_r50_fpn_1x_coco.py").model.to_dict()
    assert set(class_counts(model).values()) == {80}
    assert set(class_counts(with_classes(model, 7)).values()) == {7}
    assert set(class_counts(model).values()) == {80}
    model["roi_head"]["mask_head"]["num_classes"] = 8
    with pytest.raises(UserError, match=r"heads disagree: .*0\.num_classes = 80.*mask_head\.num_classes = 8"):
        create_model(model)


FASTER, RETINA = "faster-rcnn_r50_fpn_1x_coco.py", "retinanet_r50_fpn_1x_coco.py"


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        (FASTER, "type", "FastRCN", r"model\.type is 'FastRCN', .*; did you mean FasterRCNN\?"),
        (FASTER, "backbone.type", "ResNett", r"model\.backbone\.type is 'ResNett', .*; did you mean ResNet\?"),
        (FASTER, "backbone.dcn", {"type": "DCN"}, r"model\.backbone\.dcn is .*DCN.*; jaxft knows none only"),
        (FASTER, "backbone.plugins", [{"cfg": 1}], r"model\.backbone\.plugins\.0\.cfg is 1; a dict was"),
        (FASTER, "backbone.plugins", [{"cfg": {"type": "GeneralizedAttention"}}], r"0\.cfg\.type is 'GeneralizedAtt"),
        (FASTER, "backbone.depth", "fifty", r"model\.backbone\.depth is 'fifty'; a whole number was expected"),
        (FASTER, "backbone.color", "red", r"model\.backbone\.color: jaxft does not know this setting"),
        (FASTER, "neck.type", "PAFPN", r"model\.neck\.type is 'PAFPN', .*did you mean FPN"),
        (FASTER, "neck", [{"type": "FPN"}, {"type": "BFP"}], r"model\.neck has several parts"),
        (FASTER, "neck.end_level", 2, r"model\.neck\.num_outs is 5, but of 4 maps those from 0 to 2 are used"),
        (FASTER, "neck.num_outs", 4, r"model\.rpn_head\.anchor_generator\.strides is .*, for 5 maps, but .* is 4"),
        (FASTER, "neck.norm_cfg", {"type": "LN"}, r"model\.neck\.norm_cfg\.type is 'LN'"),
        (FASTER, "rpn_head.type", "GARPNHead", r"model\.rpn_head\.type is 'GARPNHead', .*did you mean RPNHead"),
        (FASTER, "rpn_head.anchor_generator.type", "YOLOAnchorGenerator", r"rpn_head\.anchor_generator\.type"),
        (FASTER, "rpn_head.loss_bbox.type", "MSELoss", r"model\.rpn_head\.loss_bbox\.type is 'MSELoss'"),
        (FASTER, "roi_head.bbox_head.loss_cls.type", "SeesawLoss", r"roi_head\.bbox_head\.loss_cls\.type is 'Seesaw"),
        (FASTER, "roi_head.bbox_head.loss_cls.use_sigmoid", True, r"roi_head\.bbox_head\.loss_cls: regions"),
        (FASTER, "roi_head.bbox_roi_extractor.roi_layer.type", "RoIPool", r"bbox_roi_extractor\.roi_layer\.type"),
        (FASTER, "roi_head.shared_head", {"type": "ResLayer"}, r"model\.roi_head\.shared_head is"),
        (FASTER, "train_cfg.rcnn.sampler.type", "OHEMSampler", r"model\.train_cfg\.rcnn\.sampler\.type is 'OHEM"),
        (FASTER, "train_cfg.rpn.assigner.pos_iou_thr", None, r"rpn\.assigner\.pos_iou_thr is None; a number was"),
        (FASTER, "test_cfg.rcnn.nms.type", "soft_nms", r"model\.test_cfg\.rcnn\.nms\.type is 'soft_nms'"),
        (FASTER, "train_cfg", None, r"model\.train_cfg is None; a dict was expected"),
        (FASTER, "semantic_head", {"type": "A"}, r"model\.semantic_head: jaxft does not know this setting"),
        (RETINA, "bbox_head.type", "PISARetinaHead", r"model\.bbox_head\.type is 'PISA.*did you mean RetinaHead"),
        (RETINA, "bbox_head.loss_cls.use_sigmoid", False, r"loss_cls\.use_sigmoid is False; jaxft knows True only"),
        (RETINA, "bbox_head.num_classes", 2.5, r"model\.bbox_head\.num_classes is 2\.5; a whole number"),
    ],
)
def test_what_is_not_built_is_an_error_that_names_its_key(name: str, path: str, value: Any, message: str) -> None:
    model = mmdet_live.config(name).model.to_dict()
    *parents, last = path.split(".")
    place = model
    for parent in parents:
        place = place[parent]
    place[last] = value
    with pytest.raises(UserError, match=message):
        create_model(model)


def test_a_missing_setting_is_named() -> None:
    model = mmdet_live.config(FASTER).model.to_dict()
    del model["roi_head"]["bbox_roi_extractor"]["featmap_strides"]
    with pytest.raises(UserError, match=r"model\.roi_head\.bbox_roi_extractor\.featmap_strides is missing"):
        create_model(model)
    with pytest.raises(UserError, match="has no `model` dict"):
        create_model({"optimizer": {}})


def test_a_checkpoint_of_another_class_count_is_refused_until_its_head_is_skipped() -> None:
    state = random_state(abstract(small("retinanet_r50_fpn_1x_coco.py", 4)))
    ours = abstract(small("retinanet_r50_fpn_1x_coco.py", 3))
    with pytest.raises(MismatchError, match=r"bbox_head\.retina_cls\.weight has shape \(36, .*the model wants \(27, "):
        load_pretrained(ours, state)
    assert len(load_pretrained(ours, state, skip=("bbox_head.retina_cls",)).having("new")) == 2


def test_files_are_read_with_what_they_inherit(tmp_path: Path) -> None:
    child = tmp_path / "mine.py"
    child.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
        "custom_imports = dict(imports=['no.such.module'], allow_failed_imports=False)\n"
        "model = dict(backbone=dict(depth=18, init_cfg=None), neck=dict(in_channels=[64, 128, 256, 512]),\n"
        "             bbox_head=dict(num_classes=5))\n"
    )
    model = abstract(model_dict(child))
    assert shapes(model)["bbox_head.retina_cls.weight"] == (45, 256, 3, 3)
    named = model_dict("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    assert named == model_dict(mmdet_live.config_path("retinanet/retinanet_r50_fpn_1x_coco.py"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", "model = dict(", r"a\.py is no readable MMDetection configuration \(SyntaxError"),
        ("a.py", "_base_ = 'nothing.py'", r"a\.py is no readable MMDetection configuration \(FileNotFoundError"),
        ("a.py", "model = 1 / 0", r"a\.py is no readable MMDetection configuration \(ZeroDivisionError"),
        ("a.py", "lr = 0.1", r"a\.py has no `model` dict"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        create_model(tmp_path / name)


def test_a_missing_file_package_or_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ab.py").write_text("model = {}")
    with pytest.raises(UserError, match=r"There is no MMDetection configuration .*a\.py; .* holds ab\.py"):
        read(tmp_path / "a.py")
    with pytest.raises(UserError, match=r"mmdet::nothing\.py: there is no nothing\.py among"):
        read("mmdet::nothing.py")
    with pytest.raises(UserError, match="nopackage:: names a package that is not installed"):
        read("nopackage::a.py")
    monkeypatch.setitem(sys.modules, "mmengine.config", None)
    with pytest.raises(UserError, match=r"needs MMEngine, which is not installed: pip install 'jaxft\[mmdet\]'"):
        read(tmp_path / "ab.py")


def test_coverage_counts_what_is_built_and_why_the_rest_is_not(tmp_path: Path) -> None:
    bases = tmp_path / "_base_"
    bases.mkdir()
    (bases / "model.py").write_text("model = dict(type='Nothing')")
    base = "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
    (tmp_path / "built.py").write_text(base)
    (tmp_path / "same.py").write_text(base + "train_cfg = dict(max_epochs=3)")
    (tmp_path / "dcn.py").write_text(base + "model = dict(backbone=dict(dcn=dict(type='DCN')))")
    (tmp_path / "yolo.py").write_text("model = dict(type='YOLOX', detector=dict(type='CSPDarknet'))")
    (tmp_path / "data.py").write_text("dataset_type = 'CocoDataset'")
    (tmp_path / "broken.py").write_text("(")
    result = call(main, "mmdet-coverage", tmp_path, "--all")
    assert result.code == 0, result
    assert "2 of 6 configurations are built" in result.out
    assert "built.py: 354 keys" in result.out
    for reason in ("model.backbone.dcn", "model.type = YOLOX", "no `model` dict", "cannot be read"):
        assert reason in result.out
    assert "no folder" in user_error(call(main, "mmdet-coverage", tmp_path / "nowhere"))


def test_a_checkpoint_is_converted_there_and_back_by_a_configuration(tmp_path: Path) -> None:
    config, source = tmp_path / "mine.py", tmp_path / "theirs.safetensors"
    config.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
        "model = dict(backbone=dict(depth=18, base_channels=8),\n"
        "             neck=dict(in_channels=[8, 16, 32, 64], out_channels=8),\n"
        "             bbox_head=dict(in_channels=8, feat_channels=8, num_classes=2))\n"
    )
    state = random_state(abstract(config))
    write(state, source)
    ours, again = tmp_path / "ours.safetensors", tmp_path / "again.safetensors"
    shown = call(main, "inspect", source, "--model", config)
    assert f"{len(state)} of {len(state)} source keys mapped" in " ".join(shown.out.split()), shown
    assert call(main, "convert", source, "--model", config, "--to", "flax", "--output", ours).code == 0
    assert call(main, "convert", ours, "--model", config, "--to", "torch", "--output", again).code == 0
    for key, value in load(str(again)).items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
    other = call(main, "inspect", source, "--model", config, "--num-classes", 3)
    assert "bbox_head.retina_cls.weight has shape (18, 8, 3, 3), the model wants (27, 8, 3, 3)" in user_error(other)
