"""Training values of MMDetection's configurations, against MMEngine's own optimizers and schedulers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.mmdet.coverage import abstract
from converters.mmdet.rules import read_rules
from converters.mmdet.section import Section
from converters.mmdet.training import is_mmdet, load_any, read_config
from converters.rules import leaves
from jaxft import config
from jaxft.errors import UserError
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import modules, walk
from jaxft.training.optim import parameter_groups, set_modes
from jaxft.training.schedules import schedule
from tests import mmdet_live

torch = pytest.importorskip("torch")
BASE = "_base_ = 'mmdet::{}'\n"


def written(folder: Path, base: str, text: str = "") -> Path:
    path = folder / "mine.py"
    path.write_text(BASE.format(base) + text)
    return path


def test_the_classic_configuration_is_read_whole(tmp_path: Path) -> None:
    settings = read_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    assert config.from_json(config.to_json(settings), tmp_path) == settings
    assert settings.model.mmdet is not None
    assert settings.model.mmdet["type"] == "FasterRCNN"
    assert settings.pretrained.source == "torchvision://resnet50/IMAGENET1K_V1"
    assert settings.pretrained.rename == {"": "backbone."}
    assert settings.pretrained.skip[:3] == ("neck", "rpn_head", "roi_head")
    data = settings.data
    assert (data.source, data.root, data.batch_size) == ("coco", "data/coco", 2)
    assert (data.annotation_file, data.image_folder) == ("annotations/instances_{split}.json", "{split}")
    assert (data.train, data.validation, data.classes) == ("train2017", "val2017", ())
    np.testing.assert_allclose(settings.task.mean, (0.485, 0.456, 0.406), rtol=1e-6)
    np.testing.assert_allclose(settings.task.std, (0.229, 0.224, 0.225), rtol=1e-6)
    assert (settings.task.bgr, settings.task.flip) == (False, 0.5)
    photos = settings.task
    assert (photos.scales, photos.scale_draw, photos.test_scale) == (((1333, 800),), "choice", (1333, 800))
    assert (photos.divisor, photos.masks, photos.keep_empty, photos.min_side) == (32, False, False, 32)
    optimizer = settings.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.02, 0.9)
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.accumulate) == (1e-4, None, 1)
    (phase,) = settings.phases
    assert (phase.epochs, phase.schedule.milestones, phase.schedule.gamma) == (12, (8.0, 11.0), 0.1)
    assert (phase.schedule.warmup, phase.schedule.warmup_unit, phase.schedule.unit) == (499, "step", "epoch")


def test_other_values_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "mask_rcnn/mask-rcnn_r50-caffe_fpn_ms-1x_coco.py",
        "optim_wrapper = dict(type='AmpOptimWrapper', accumulative_counts=4)\n"
        "optim_wrapper['clip_grad'] = dict(max_norm=35, norm_type=2)\n"
        "auto_scale_lr = dict(enable=True, base_batch_size=16)\n"
        "load_from = 'weights.pth'\n"
        "metainfo = dict(classes=('cat', 'dog'))\n"
        "train = dict(metainfo=metainfo, ann_file='a/train.json', data_prefix=dict(img='train/'))\n"
        "val = dict(metainfo=metainfo, ann_file='a/val.json', data_prefix=dict(img='val/'))\n"
        "train_dataloader = dict(dataset=train)\n"
        "val_dataloader = dict(dataset=val)\n",
    )
    settings = read_config(path)
    assert settings.pretrained == config.Pretrained(source="weights.pth")
    assert (settings.precision, settings.optimizer.accumulate, settings.data.batch_size) == ("bfloat16", 4, 8)
    assert (settings.optimizer.learning_rate, settings.optimizer.clip_norm) == (0.02 * 8 / 16, 35)
    assert settings.data.classes == ("cat", "dog")
    assert (settings.data.annotation_file, settings.data.train, settings.data.validation) == (
        "a/{split}.json",
        "train",
        "val",
    )
    assert settings.task.bgr
    np.testing.assert_allclose(np.multiply(settings.task.mean, 255), (103.530, 116.280, 123.675), rtol=1e-6)
    np.testing.assert_allclose(np.multiply(settings.task.std, 255), (1, 1, 1), rtol=1e-6)
    assert len(settings.task.scales) == 6
    assert settings.task.masks


def test_repeated_data_makes_longer_epochs() -> None:
    settings = read_config("mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py")
    assert (settings.phases[0].epochs, settings.phases[0].schedule.milestones) == (64, (56.0,))
    assert settings.task.scale_draw == "range"
    assert settings.task.scales == ((2048, 800), (2048, 1024))
    assert (settings.data.image_folder, settings.data.train) == ("leftImg8bit/{split}", "train")
    assert settings.pretrained.source is not None
    assert settings.pretrained.source.startswith("https://")
    assert settings.model.mmdet is not None
    assert settings.model.mmdet["roi_head"]["mask_head"]["num_classes"] == 8


PARAMWISE: list[dict[str, Any]] = [
    {},
    {"bias_lr_mult": 2.0, "bias_decay_mult": 0.0},
    {"norm_decay_mult": 0.0, "bypass_duplicate": True},
    {"norm_decay_mult": 0.5, "custom_keys": {"backbone": {"lr_mult": 0.1}, "fpn_convs.0": {"decay_mult": 0.0}}},
]


@pytest.mark.parametrize("paramwise", PARAMWISE)
@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("fcos_r50-caffe_fpn_gn-head_1x_coco.py", {}),
        ("retinanet_r50_fpn_1x_coco.py", {"norm_eval": False, "frozen_stages": 0}),
    ],
)
def test_every_parameter_gets_the_rate_and_decay_that_mmengine_gives_it(
    name: str, backbone: dict[str, Any], paramwise: dict[str, Any]
) -> None:
    with mmdet_live.quiet():
        from mmengine.optim import DefaultOptimWrapperConstructor

    model = mmdet_live.config(name).model.to_dict()
    model["backbone"] |= backbone
    theirs = mmdet_live.build(model)
    theirs.train()
    settings = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01, "weight_decay": 1e-4}}
    with mmdet_live.quiet():
        wrapper = DefaultOptimWrapperConstructor(settings, dict(paramwise))(theirs)
    groups = {id(parameter): group for group in wrapper.param_groups for parameter in group["params"]}
    ours = abstract(model)
    phase = config.Phase(rules=read_rules(model, Section(dict(paramwise), "paramwise_cfg")))
    shapes = {path: variable.shape for path, _, _, variable in walk(ours)}
    trained = {leaf.path: leaf.key for leaf in leaves(ours) if leaf.key in dict(theirs.named_parameters())}
    groups_of_ours = parameter_groups(
        {path: shapes[path] for path in trained}, config.Optimizer(learning_rate=0.01, weight_decay=1e-4), phase, 10
    )
    named = dict(theirs.named_parameters())
    for path, key in trained.items():
        group, wanted = groups_of_ours.group(path), groups.get(id(named[key]))
        assert group.frozen == (not named[key].requires_grad), path
        if named[key].requires_grad:
            assert wanted is not None
            assert float(group.lr(0)) == pytest.approx(wanted["lr"]), path
            assert group.weight_decay == pytest.approx(wanted["weight_decay"]), path
    set_modes(ours, groups_of_ours, phase.batch_norm)
    layers = dict(theirs.named_modules())
    for path, module in modules(ours):
        if isinstance(module, BatchNorm):
            assert module.running_only == (not layers[path].training), path


@pytest.mark.parametrize(
    "name", ["faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"]
)
def test_the_schedule_is_mmengines(name: str) -> None:
    with mmdet_live.quiet():
        from mmengine.optim import ConstantLR, LinearLR, MultiStepLR

    settings = read_config(f"mmdet::{name}")
    steps = 60  # an epoch
    ours = schedule(settings.phases[0].schedule, 0.02, 12 * steps, steps)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    if "fcos" in name:
        warmup: Any = ConstantLR(optimizer, factor=1 / 3, by_epoch=False, begin=0, end=500)
    else:
        warmup = LinearLR(optimizer, start_factor=0.001, by_epoch=False, begin=0, end=500)
    decay = MultiStepLR(optimizer, by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1)
    for step in range(12 * steps):
        assert float(ours(step)) == pytest.approx(optimizer.param_groups[0]["lr"], rel=2e-5), step
        optimizer.step()
        warmup.step()
        if step % steps == steps - 1:
            decay.step()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim_wrapper = dict(optimizer=dict(_delete_=True, type='Lion', lr=1.))", r"optimizer\.type is 'Lion'"),
        ("optim_wrapper = dict(constructor='LayerDecay')", r"optim_wrapper\.constructor is 'LayerDecay'"),
        ("optim_wrapper = dict(paramwise_cfg=dict(dwconv_decay_mult=0.))", r"paramwise_cfg\.dwconv_decay_mult is 0"),
        ("train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=9)", r"train_cfg\.type is 'IterBased"),
        ("param_scheduler = [dict(type='PolyLR')]", r"param_scheduler\.0\.type is 'PolyLR'"),
        ("param_scheduler = [dict(type='CosineAnnealingLR', T_max=3)]", r"param_scheduler\.0\.T_max: a cosine must"),
        ("train_dataloader = dict(dataset=dict(type='LVISV1Dataset'))", r"train_dataloader\.dataset\.type is 'LVIS"),
        (
            "train_dataloader = dict(dataset=dict(pipeline=[dict(type='Mosaic')]))",
            r"train_pipeline\.0\.type is 'Mosaic'",
        ),
        ("train_dataloader = dict(dataset=dict(ann_file='other/x.json'))", r"ann_file: other/x\.json and .* do not"),
        ("train_dataloader = dict(dataset=dict(data_prefix=dict(img='photos')))", r"the folders of photos, photos and"),
        (
            "train_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(9, 9), keep_ratio=False)]))",
            r"train_pipeline\.0\.keep_ratio is False",
        ),
    ],
)
def test_what_is_not_done_is_an_error_that_names_its_key(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, "retinanet/retinanet_r50_fpn_1x_coco.py", text)
    with pytest.raises(UserError, match=message):
        load_any(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_base_ = ['a.py']\n", True),
        ("model = dict(type='RPN')\n", True),
        ("from mmengine.config import read_base\nwith read_base():\n    from .a import *\n", True),
        ("from configs.a import config as base\nmodel = 3\nconfig = base\n", False),
        ("config = 1\n", False),
        ("(", False),
    ],
)
def test_whose_configuration_a_file_is(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "a.py").write_text(text)
    assert is_mmdet(tmp_path / "a.py") == expected
    assert is_mmdet(Path("mmdet::a/b.py"))
    assert not is_mmdet(tmp_path / "nothing.py")


def test_a_model_in_a_saved_configuration_is_built_again(tmp_path: Path) -> None:
    settings = read_config(written(tmp_path, "rpn/rpn_r50_fpn_1x_coco.py"))
    again = json.loads(config.to_json(settings))["model"]["mmdet"]
    assert {leaf.key for leaf in leaves(abstract(again))} == mmdet_live.build(
        "rpn_r50_fpn_1x_coco.py"
    ).state_dict().keys()
    assert "bbox_head" in settings.pretrained.skip
