"""`python -m jaxft.train --config SOME_MMDET_CONFIG.py`, and a checkpoint of MMDetection as its start."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.mmdet import model_dict, with_classes
from converters.mmdet.coverage import abstract
from jaxft import train
from jaxft.evaluate import main as evaluate_main
from jaxft.run import RunDirectory
from tests import mmdet_live
from tests.converters.tiny import random_state
from tests.scenes import CLASSES, write_coco
from tests.small import call, final, lines, user_error

torch = pytest.importorskip("torch")

CONFIG = """
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(
    data_preprocessor=dict(pad_size_divisor=16),
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=8, num_outs=2, end_level=2, add_extra_convs=False),
    bbox_head=dict(num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
                   anchor_generator=dict(strides=[8, 16], octave_base_scale=2, scales_per_octave=1)))
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 48), keep_ratio=True), dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 48), keep_ratio=True), dict(type='PackDetInputs')]
train_dataloader = dict(batch_size=2, dataset=dict(data_prefix=dict(img='photos'), pipeline=train_pipeline,
                                                   ann_file='annotations/instances_train.json'))
val_dataloader = dict(dataset=dict(data_prefix=dict(img='photos'), pipeline=test_pipeline,
                                   ann_file='annotations/instances_test.json'))
val_evaluator = dict(ann_file='data/coco/annotations/instances_test.json')
test_dataloader = None
train_cfg = dict(max_epochs=2)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2)]
"""

# The data and the schedule of `CONFIG` under an RPN.
RPN = """
_base_ = 'mmdet::rpn/rpn_r50_fpn_1x_coco.py'
model = dict(
    data_preprocessor=dict(pad_size_divisor=16),
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=8, num_outs=2, start_level=1, end_level=2),
    rpn_head=dict(in_channels=8, feat_channels=8, anchor_generator=dict(scales=[2], strides=[8, 16])))
train_pipeline""" + CONFIG.partition("train_pipeline")[2]


def random_tensors(file: Path, classes: int) -> dict[str, Any]:
    state = random_state(abstract(with_classes(model_dict(file), classes)))
    small = {key: value / value[0].size if value.ndim == 4 else value for key, value in state.items()}
    return {key: torch.from_numpy(value) for key, value in small.items()}


def test_a_configuration_of_mmdetection_trains_and_its_export_goes_back(tmp_path: Path) -> None:
    data, file, weights = tmp_path / "data", tmp_path / "narrow.py", tmp_path / "epoch_1.pth"
    write_coco(data, (1, 2, 0, 3, 1), "train")
    write_coco(data, (2,), "test", seed=1)
    file.write_text(CONFIG)
    older = random_tensors(file, 3)
    torch.save({"state_dict": older, "meta": {"dataset_meta": {"classes": ("cat", CLASSES[1], "dog")}}}, weights)
    given = ["--config", file, "--data.root", data, "--pretrained.source", weights, "--log-every", 1]
    refused = call(train.main, *given, "--workdir", tmp_path / "refused")
    assert "bbox_head.retina_cls.weight has shape (9, 8, 3, 3), the model wants (6, 8, 3, 3)" in user_error(refused)
    names = {"state_dict": random_tensors(file, 2), "meta": {"dataset_meta": {"classes": ("disc", "dog")}}}
    torch.save(names, tmp_path / "two.pth")
    other = call(train.main, *given, "--pretrained.source", tmp_path / "two.pth", "--workdir", tmp_path / "refused")
    assert "class 2 is dog there and square here. Train a new head with --pretrained.skip @head" in user_error(other)
    run = tmp_path / "run"
    options = ["--pretrained.skip", "@head", "--pretrained.transfer-head-rows", "--optimizer.learning-rate", 1e-9]
    result = call(train.main, *given, *options, "--workdir", run)
    assert result.code == 0, result
    entries = [entry for entry in lines(run) if entry["split"] == "train"]
    assert {"loss", "loss_cls", "loss_bbox"} <= entries[0].keys()
    assert RunDirectory(run).config().model.mmdet == model_dict(RunDirectory(run).config().model.mmdet or {})
    _, arrays = final(run)
    kernel = arrays["bbox_head.retina_cls.kernel"].transpose(3, 2, 0, 1)
    wanted = older["bbox_head.retina_cls.weight"].numpy()
    np.testing.assert_allclose(kernel[1::2], wanted[1::3], atol=1e-6)  # the square, in each of three anchors
    assert np.abs(kernel[::2] - wanted[::3]).max() > 1e-3  # the disc is new


def test_an_rpn_alone_takes_all_objects_for_one_class(tmp_path: Path) -> None:
    data, file, run = tmp_path / "data", tmp_path / "rpn.py", tmp_path / "run"
    write_coco(data, (1, 2, 1, 3), "train")
    write_coco(data, (3, 2), "test", seed=1)
    file.write_text(RPN)
    given = ["--config", file, "--data.root", data, "--log-every", 1]
    refused = call(train.main, *given, "--data.single-class", "None", "--workdir", tmp_path / "refused")
    assert "an RPN alone, which knows a single class, but the data have 2" in user_error(refused)
    names = {"dataset_meta": {"classes": ("cat", "dog")}}  # of the data that it was trained on
    torch.save({"state_dict": random_tensors(file, 1), "meta": names}, tmp_path / "rpn.pth")
    result = call(train.main, *given, "--pretrained.source", tmp_path / "rpn.pth", "--workdir", run)
    assert result.code == 0, result
    entries = lines(run)
    assert {"loss", "loss_rpn_cls", "loss_rpn_bbox"} <= entries[0].keys()
    assert "proposal_fast_AR@100" in entries[-1]
    assert not {f"bbox_mAP/{name}" for name in CLASSES} & entries[-1].keys()
    again = call(evaluate_main, "--run", run)
    assert again.code == 0, again


def test_the_frozen_part_of_a_configuration_is_frozen(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "narrow.py"
    write_coco(data, (1, 2, 1, 1), "train")
    write_coco(data, (1,), "test")
    file.write_text(CONFIG)
    arguments = ("--data.root", data, "--workdir", tmp_path / "run", "--dry-run", "--full")
    result = call(train.main, "--config", file, *arguments)
    assert result.code == 0, result
    rows = {row.split()[1]: row for row in result.out.splitlines() if "backbone." in row or "bbox_head." in row}
    assert "frozen" in rows["backbone.conv1.kernel"]
    assert "frozen" in rows["backbone.layer1.0.conv1.kernel"]
    assert "trained" in rows["backbone.layer2.0.conv1.kernel"]
    assert "kept" in rows["backbone.layer2.0.bn1.mean"]
    assert "trained" in rows["bbox_head.retina_cls.kernel"]
    told = result.out.partition("These settings of the file have no part in the run:")[2]
    assert "  val_dataloader.batch_size" in told.replace("val_dataloader.drop_last, ", "")
    assert "env_cfg: it sets up CUDA" in told


def test_a_live_mmdetection_has_the_same_narrow_model(tmp_path: Path) -> None:
    (tmp_path / "narrow.py").write_text(CONFIG)
    model = model_dict(tmp_path / "narrow.py")
    theirs = mmdet_live.build(model).state_dict()
    theirs_shapes = {key: tuple(value.shape) for key, value in theirs.items()}
    ours = random_state(abstract(model))
    assert {key: value.shape for key, value in ours.items()} == theirs_shapes
