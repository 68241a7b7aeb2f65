"""ERD's configurations: GFL that learns new classes beside an old detector's."""

from pathlib import Path

import numpy as np
import pytest

from converters import load_pretrained
from converters.mmdet.coverage import abstract
from converters.mmdet.training import read_config
from converters.rules import leaves
from jaxft.config import completed
from jaxft.errors import UserError
from jaxft.models import abstract_model
from jaxft.models.paths import values
from jaxft.tasks.detection import Detection, Incremental
from tests.converters.mmdet.files import written

GFL = "gfl/gfl_r50_fpn_1x_coco.py"
FIRST = """
model = dict(bbox_head=dict(num_classes=40))
train_dataloader = dict(dataset=dict(ann_file='annotations/instances_train2017_sel_first_40_cats.json'))
val_dataloader = dict(dataset=dict(ann_file='annotations/instances_val2017_sel_first_40_cats.json'))
val_evaluator = dict(ann_file='data/coco/annotations/instances_val2017_sel_first_40_cats.json')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
"""
SECOND = """
model = dict(
    type='GFLIncrementERD',
    ori_setting=dict(
        ori_checkpoint_file='first/epoch_12.pth',
        ori_num_classes=40,
        ori_config_file='configs/gfl_increment/gfl_r50_fpn_1x_coco_first_40_cats.py'),
    latest_model_flag=True,
    bbox_head=dict(
        type='GFLHeadIncrementERD',
        num_classes=80,
        loss_ld=dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.5, T=8)))
train_dataloader = dict(dataset=dict(ann_file='annotations/instances_train2017_sel_last_40_cats.json'))
"""


def test_the_two_stages_are_read(tmp_path: Path) -> None:
    first = read_config(written(tmp_path, GFL, FIRST)).config
    assert isinstance(first.task, Detection)
    assert first.task.incremental == Incremental()
    assert first.pretrained.source == "torchvision://resnet50/IMAGENET1K_V1"
    reading = read_config(written(tmp_path, GFL, SECOND))
    second = reading.config
    assert isinstance(second.task, Detection)
    assert second.task.incremental == Incremental(
        teacher="first/epoch_12.pth", old_classes=40, box_weight=0.5, temperature=8.0
    )
    assert second.model.mmdet is not None
    assert (second.model.mmdet["type"], second.model.mmdet["bbox_head"]["type"]) == ("GFL", "GFLHead")
    told = " ".join(reading.told())
    assert "model.backbone.init_cfg: the old detector's weights take its place" in told
    assert "model.ori_setting.ori_config_file: the old detector is the new one" in told
    whole = completed(second)
    assert (whole.pretrained.source, whole.pretrained.known_classes) == ("first/epoch_12.pth", 40)
    assert (whole.distillation.teacher, whole.distillation.temperature) == ("first/epoch_12.pth", 8.0)
    assert [values(abstract(second.model.mmdet))["bbox_head.gfl_cls.bias"].shape] == [(80,)]


REFUSED = {
    "model.type is 'GFLIncre', which jaxft does not build": SECOND.replace("GFLIncrementERD", "GFLIncre"),
    "model.bbox_head.type is 'GFLHeadIncre', which jaxft does not build": SECOND.replace(
        "HeadIncrementERD", "HeadIncre"
    ),
    "model.ori_setting.ori_num_classes is missing": SECOND.replace("ori_num_classes=40,", ""),
    "ori_setting.*unknown_key": SECOND.replace("ori_num_classes=40,", "ori_num_classes=40, unknown_key=1,"),
    "model.bbox_head.loss_ld.type is 'L1Loss'": SECOND.replace("KnowledgeDistillationKLDivLoss", "L1Loss"),
    "model.dist_weight": SECOND.replace("latest_model_flag=True", "dist_weight=2"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_understood_is_refused(message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_config(written(tmp_path, GFL, REFUSED[message]))


def test_a_checkpoint_with_its_old_detector_is_that_of_the_new_one() -> None:
    model = abstract_model("resnet18", 3)
    state = {leaf.key: np.zeros(leaf.source_shape, np.float32) for leaf in leaves(model)}
    state = {key: array for key, array in state.items() if not key.endswith("num_batches_tracked")}
    ledger = load_pretrained(model, state | {f"ori_model.{key}": array for key, array in state.items()})
    assert len(ledger.having("skipped")) == len(ledger.having("mapped")) == len(state)
    other = abstract_model("resnet18", 3)
    load_pretrained(other, {f"ori_model.{key}": array for key, array in state.items()}, prefix="ori_model.")
    assert not np.any(values(other)["fc.bias"])
