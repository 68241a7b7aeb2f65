"""Training values of MMDetection's configurations, against MMEngine's own optimizers and schedulers."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converters.mmdet.coverage import abstract
from converters.mmdet.training import is_mmdet, read_config
from converters.rules import leaves
from jaxft import config
from jaxft.cli import parse
from jaxft.fields import flat
from jaxft.parts import ClassBalanced, Concat, Files, Repeat
from jaxft.schedulers import LinearLR, MultiStepLR
from jaxft.tasks.detection.transforms import FilterAnnotations, RandomChoiceResize, RandomFlip, RandomResize, Resize
from jaxft.training.batch import resolved
from jaxft.training.judge import check_judging
from jaxft.training.schedules import schedule
from tests import mmdet_live
from tests.converters.mmdet.files import RETINA, written

torch = pytest.importorskip("torch")


def test_the_classic_configuration_is_read_whole(tmp_path: Path) -> None:
    reading = read_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    settings = reading.config
    assert config.from_json(config.to_json(settings), tmp_path) == settings
    assert settings.model.mmdet is not None
    assert settings.model.mmdet["type"] == "FasterRCNN"
    assert settings.pretrained.source == "torchvision://resnet50/IMAGENET1K_V1"
    assert settings.pretrained.rename == {"": "backbone."}
    assert settings.pretrained.skip[:3] == ("neck", "rpn_head", "roi_head")
    data = settings.data
    assert (data.source, data.root, data.batch_size, data.batch_per_device) == ("coco", "data/coco", 2, True)
    assert (data.train, data.validation, data.classes, data.shuffle) == ("train", "val", (), True)
    val = Files(source="coco", annotation_file="annotations/instances_val2017.json", image_folder="val2017")
    train = {"annotation_file": "annotations/instances_train2017.json", "image_folder": "train2017"}
    thinned = {"keep_empty": False, "min_side": 32}
    assert data.splits == {"train": Files(source="coco", **train, **thinned), "val": val, "test": val}
    np.testing.assert_allclose(settings.task.mean, (0.485, 0.456, 0.406), rtol=1e-6)
    np.testing.assert_allclose(settings.task.std, (0.229, 0.224, 0.225), rtol=1e-6)
    photos = settings.task
    resize = Resize(scale=(1333, 800), keep_ratio=True)
    assert photos.transforms == (resize, RandomFlip(prob=0.5))
    assert photos.test_transforms == (resize,)
    assert (photos.bgr, photos.divisor, photos.masks) == (False, 32, False)
    assert (photos.metric, photos.metric_kinds) == ("coco", ("bbox",))
    optimizer = settings.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 0.02, 0.9)
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.accumulate) == (1e-4, None, 1)
    assert (optimizer.base_batch_size, settings.auto_scale_lr) == (16, False)
    (phase,) = settings.phases
    assert (phase.epochs, phase.steps, phase.schedule.micro_batches) == (12, None, False)
    warmup = LinearLR(start_factor=0.001, by_epoch=False, begin=0, end=500)
    assert phase.schedule.schedulers == (warmup, MultiStepLR(begin=0, end=12, milestones=(8, 11), gamma=0.1))
    assert (settings.log_every, settings.evaluate_every, settings.evaluate_unit) == (50, 1, "epoch")
    told = "\n".join(reading.told())
    assert "train_dataloader.num_workers" in told
    assert "data_root, train_pipeline, test_pipeline: a variable of the file" in told


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
        "val_dataloader = dict(dataset=val)\n"
        "test_dataloader = None\n"
        "val_evaluator = dict(ann_file='data/coco/a/val.json')\n"
        "randomness = dict(seed=7)\n",
    )
    reading = read_config(path)
    assert "optim_wrapper.dtype: where none is given" in "\n".join(reading.told())
    settings = reading.config
    assert settings.pretrained == config.Pretrained(source="weights.pth")
    assert (settings.precision, settings.optimizer.accumulate, settings.data.batch_size) == ("bfloat16", 4, 2)
    assert (settings.optimizer.learning_rate, settings.optimizer.clip_norm) == (0.02, 35)
    assert (settings.optimizer.base_batch_size, settings.auto_scale_lr, settings.seed) == (64, True, 7)
    assert (settings.phases[0].schedule.micro_batches, settings.log_every) == (True, 12)
    assert settings.data.classes == ("cat", "dog")
    assert settings.data.splits["val"] == Files(source="coco", annotation_file="a/val.json", image_folder="val")
    assert "test" not in settings.data.splits
    assert settings.task.bgr
    np.testing.assert_allclose(np.multiply(settings.task.mean, 255), (103.530, 116.280, 123.675), rtol=1e-6)
    np.testing.assert_allclose(np.multiply(settings.task.std, 255), (1, 1, 1), rtol=1e-6)
    (resize, _) = settings.task.transforms
    assert isinstance(resize, RandomChoiceResize)
    assert len(resize.scales) == 6
    assert (settings.task.masks, settings.task.metric_kinds) == (True, ("bbox", "segm"))


def test_repeated_data_stay_repeated() -> None:
    reading = read_config("mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py")
    settings = reading.config
    assert (settings.phases[0].epochs, settings.phases[0].schedule.schedulers[1].milestones) == (8, (7,))
    assert settings.task.transforms[0] == RandomResize(scale=((2048, 800), (2048, 1024)), keep_ratio=True)
    train = settings.data.splits["train"]
    assert isinstance(train, Repeat)
    assert isinstance(train.part, Files)
    assert (train.times, train.part.image_folder) == (8, "leftImg8bit/train")
    assert any("Cityscapes" in entry.reason for entry in reading.ignored)
    assert settings.pretrained.source is not None
    assert settings.pretrained.source.startswith("https://")
    assert settings.model.mmdet is not None
    assert settings.model.mmdet["roi_head"]["mask_head"]["num_classes"] == 8


@pytest.mark.parametrize(
    "name", ["faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"]
)
def test_the_schedule_is_mmengines(name: str) -> None:
    with mmdet_live.quiet():
        from mmengine.optim import ConstantLR, LinearLR, MultiStepLR

    settings = read_config(f"mmdet::{name}").config
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


def test_each_split_has_its_own_root_files_and_filter(tmp_path: Path) -> None:
    text = (
        "filters = dict(filter_empty_gt=True, min_size=8)\n"
        "both = dict(ann_file='annotations.json', data_prefix=dict(img=''), indices=5)\n"
        "train_dataloader = dict(dataset=dict(data_root='set/train/', **both))\n"
        "val_dataloader = dict(dataset=dict(data_root='set/val/', test_mode=False, filter_cfg=filters, **both))\n"
        "test_dataloader = dict(dataset=dict(data_root='set/val/', ann_file='train2017.json'))\n"
        "val_evaluator = dict(ann_file='set/val/annotations.json')\n"
    )
    data = read_config(written(tmp_path, RETINA, text)).config.data
    common = {"source": "coco", "annotation_file": "annotations.json", "indices": 5, "keep_empty": False}
    assert data.root == "set"
    assert data.splits == {
        "train": Files(root="train", min_side=32, **common),
        "val": Files(root="val", min_side=8, **common),
        "test": Files(root="val", source="coco", annotation_file="train2017.json", image_folder="val2017"),
    }


def test_a_file_without_validation_trains_without_it(tmp_path: Path) -> None:
    text = "val_dataloader = None\nval_evaluator = None\nval_cfg = None\ntest_dataloader = None\n"
    settings = read_config(written(tmp_path, RETINA, text)).config
    assert (settings.data.validation, list(settings.data.splits)) == (None, ["train"])
    assert settings.task.test_transforms == ()
    text += "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=9, val_interval=5)\n"
    reading = read_config(written(tmp_path, RETINA, text + "param_scheduler = []\n"))
    check_judging(reading.config, None)  # nothing speaks of an evaluation
    assert "train_cfg.val_interval: nothing is evaluated." in "\n".join(reading.told())


def test_a_test_split_alone_is_judged_by_its_own_evaluator(tmp_path: Path) -> None:
    text = "val_dataloader = None\nval_evaluator = None\nval_cfg = None\n"
    text += "test_evaluator = dict(_delete_=True, type='VOCMetric', eval_mode='area')\n"
    task = read_config(written(tmp_path, RETINA, text)).config.task
    assert (task.metric, task.voc_mode) == ("voc", "area")


def test_classes_may_be_a_file_of_names(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\nbig dog\n")
    dataset = f"dict(dataset=dict(metainfo=dict(classes={str(tmp_path / 'classes.txt')!r})))"
    text = "".join(f"{name}_dataloader = {dataset}\n" for name in ("train", "val", "test"))
    assert read_config(written(tmp_path, RETINA, text)).config.data.classes == ("cat", "big dog")


def test_data_sets_are_balanced_and_joined() -> None:
    balanced = read_config("mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py").config.data
    train = balanced.splits["train"]
    assert isinstance(train, ClassBalanced)
    assert isinstance(train.part, Files)
    assert (train.oversample_threshold, train.part.annotation_file) == (1e-3, "annotations/lvis_v1_train.json")
    reading = read_config("mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py")
    data, task = reading.config.data, reading.config.task
    repeated = data.splits["train"]
    assert isinstance(repeated, Repeat)
    assert isinstance(repeated.part, Concat)
    common = {"source": "voc", "annotation_file": "ImageSets/Main/trainval.txt", "keep_empty": False, "min_side": 32}
    years = tuple(Files(root=year, min_box_side=32, **common) for year in ("VOC2007", "VOC2012"))
    assert (repeated.times, repeated.part.parts) == (3, years)
    assert data.splits["val"] == Files(source="voc", root="VOC2007", annotation_file="ImageSets/Main/test.txt")
    assert (len(data.classes), data.classes[:2], data.root) == (20, ("aeroplane", "bicycle"), "data/VOCdevkit")
    assert (task.metric, task.voc_mode, task.iou_thresholds) == ("voc", "11points", (0.5,))


def test_the_steps_of_a_pipeline_stay_in_their_order(tmp_path: Path) -> None:
    settings = read_config("mmdet::atss/atss_r50_fpn_8xb8-amp-lsj-200e_coco.py").config
    kinds = [step.type for step in settings.task.transforms]
    assert kinds == ["RandomResize", "RandomCrop", "FilterAnnotations", "RandomFlip"]
    assert settings.task.transforms[2] == FilterAnnotations(min_gt_bbox_wh=(0.01, 0.01))
    assert settings.task.pad_shapes == ()  # 1024 x 1024 is what the crop needs anyway; evaluation has another size
    steps = (
        "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'),\n"
        "    dict(type='PhotoMetricDistortion'), dict(type='LoadAnnotations', with_bbox=True),\n"
        "    dict(type='Resize', scale=(99, 99), keep_ratio=False), dict(type='RandomCrop', crop_size=(50, 60)),\n"
        "    dict(type='RandomFlip', prob=0.5, direction='vertical'), dict(type='RandomFlip', prob=0.25),\n"
        "    dict(type='Pad', size=(64, 64), pad_val=dict(img=(1, 2, 3))), dict(type='PackDetInputs')]))\n"
    )
    shown = [flat(step) for step in read_config(written(tmp_path, RETINA, steps)).config.task.transforms]
    assert [step["type"] for step in shown] == [
        *("PhotoMetricDistortion", "Resize", "RandomCrop", "RandomFlip", "RandomFlip", "Pad"),
    ]
    assert (shown[1]["keep_ratio"], shown[3]["direction"], shown[4]["prob"]) == (False, "vertical", 0.25)
    assert shown[5]["pad_val"] == (3, 2, 1)  # B, G, R there


def test_a_loop_of_iterations(tmp_path: Path) -> None:
    settings = read_config("mmdet::retinanet/retinanet_r50_fpn_90k_coco.py").config
    assert (settings.phases[0].steps, settings.evaluate_unit, settings.evaluate_every) == (90_000, "step", 10_000)
    assert settings.checkpoint_every == 10_000
    text = "optim_wrapper = dict(accumulative_counts=4)\ntrain_cfg = dict(val_begin=50000)\n"
    accumulated = read_config(written(tmp_path, "retinanet/retinanet_r50_fpn_90k_coco.py", text)).config
    assert (accumulated.phases[0].steps, accumulated.evaluate_every) == (22_500, 2_500)
    assert (accumulated.evaluate_from, accumulated.checkpoint_every) == (12_500, 2_500)
    assert accumulated.phases[0].schedule.micro_batches


def test_hooks_that_decide_something(tmp_path: Path) -> None:
    text = (
        "custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True,\n"
        "                     priority=49, begin_iter=3),\n"
        "                dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP_50', patience=3, min_delta=0.01),\n"
        "                dict(type='NumClassCheckHook')]\n"
        "default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP_75', max_keep_ckpts=2),\n"
        "                     logger=dict(interval=7))\n"
        "train_cfg = dict(val_interval=3, val_begin=5)\n"
    )
    reading = read_config(written(tmp_path, RETINA, text))
    settings = reading.config
    assert settings.ema == config.Ema(decay=1 - 0.0002, warmup=2000, begin=3, buffers=True)
    assert settings.early_stopping == config.EarlyStopping(metric="bbox_mAP_50", patience=3, min_delta=0.01)
    assert (settings.best_metric, settings.log_every) == ("bbox_mAP_75", 7)
    assert (settings.evaluate_every, settings.evaluate_from) == (3, 5)
    told = {entry.key: entry.reason for entry in reading.ignored}
    assert told["custom_hooks.2"] == "heads always have as many classes as the data"
    assert told["model.bbox_head.num_classes"] == "heads have as many classes as the data"
    assert "last and the best" in told["default_hooks.checkpoint.max_keep_ckpts"]
    plain = "custom_hooks = [dict(type='EMAHook', momentum=0.01, interval=2)]"
    averaged = read_config(written(tmp_path, RETINA, plain)).config
    assert averaged.ema == config.Ema(decay=0.99, interval=2)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(("enable", "given"), [(True, None), (True, 16), (False, 16)])
def test_the_rate_is_scaled_as_mmengines_runner_does_it(
    tmp_path: Path, enable: bool, given: int | None, parts: int
) -> None:
    with mmdet_live.quiet():
        from mmengine.optim import OptimWrapper
        from mmengine.runner import Runner
    text = f"auto_scale_lr = dict(enable={enable})\noptim_wrapper = dict(accumulative_counts={parts})\n"
    changed = () if given is None else ("--data.batch-size", str(given))
    options, _ = parse(["--config", str(written(tmp_path, RETINA, text)), *changed])
    devices, batch = 8, given or 2
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01))
    runner = SimpleNamespace(
        world_size=devices,
        param_schedulers=None,
        logger=logging.getLogger(),
        _train_dataloader={"batch_size": batch},
    )
    Runner.scale_lr(runner, wrapper, {"base_batch_size": 16, "enable": enable})
    ours, _ = resolved(options.settings, devices)
    assert ours.data.batch_size == batch * devices * parts
    assert ours.optimizer.learning_rate == pytest.approx(wrapper.optimizer.param_groups[0]["lr"])


def test_a_batch_on_the_command_line_comes_before_the_scaling(tmp_path: Path) -> None:
    path = written(tmp_path, RETINA, "auto_scale_lr = dict(enable=True)")
    options, _ = parse(["--config", str(path), "--data.batch-size", "16"])
    assert resolved(options.settings, 1)[0].optimizer.learning_rate == pytest.approx(0.01)
    assert options.passed_over[0] == "These settings of the file have no part in the run:"


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
    settings = read_config(written(tmp_path, "rpn/rpn_r50_fpn_1x_coco.py")).config
    again = json.loads(config.to_json(settings))["model"]["mmdet"]
    assert {leaf.key for leaf in leaves(abstract(again))} == mmdet_live.build(
        "rpn_r50_fpn_1x_coco.py"
    ).state_dict().keys()
    assert "bbox_head" in settings.pretrained.skip
