"""`MultiImageMixDataset`: what is read of it, and what is refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters.mmdet.training import load_any, read_config
from jaxft.data.loader import train_batches
from jaxft.errors import UserError
from jaxft.parts import Files, Repeat
from jaxft.tasks.detection.data import open_datasets
from jaxft.tasks.detection.mixtures import CopyPaste, MixUp, Mosaic
from jaxft.tasks.detection.transforms import (
    FilterAnnotations,
    Pad,
    PhotoMetricDistortion,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
    YOLOXHSVRandomAug,
)
from tests.converters.mmdet.files import RETINA, written
from tests.scenes import write_coco

PASTING = "simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-scp-270k_coco.py"
# YOLOX's own steps, smaller, and with another color than gray.
YOLOX = """
pipeline = [
    dict(type='Mosaic', img_scale=(64, 32), pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.1, 2), border=(-32, -16), border_val=(1, 2, 3)),
    dict(type='MixUp', img_scale=(64, 32), ratio_range=(0.8, 1.6), pad_val=114.0),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=(64, 32), keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='PackDetInputs')]
load = [dict(type='LoadImageFromFile'), dict(type='PhotoMetricDistortion'),
        dict(type='LoadAnnotations', with_bbox=True)]
photos = dict(type='CocoDataset', data_root='data/coco', ann_file='annotations/instances_train.json',
              data_prefix=dict(img='photos'), pipeline=load)
"""
MIXED = YOLOX + "mixed = dict(type='MultiImageMixDataset', dataset=photos, pipeline=pipeline)\n"
USED = "train_dataloader = dict(dataset=dict(_delete_=True, **mixed))\n"


def test_copy_and_paste_of_mmdetections_own_file() -> None:
    fields = read_config(f"mmdet::{PASTING}").config.task
    assert fields.transforms == (CopyPaste(),)
    assert fields.photo_transforms == (
        RandomResize(scale=(1024, 1024), ratio_range=(0.8, 1.25), keep_ratio=True),
        RandomCrop(crop_size=(1024, 1024), crop_type="absolute_range", recompute_bbox=True, allow_negative_crop=True),
        FilterAnnotations(min_gt_bbox_wh=(0.01, 0.01)),
        RandomFlip(prob=0.5),
        Pad(size=(1024, 1024)),
    )
    assert (fields.masks, fields.pad_shapes) == (True, ())


def test_both_pipelines_are_read(tmp_path: Path) -> None:
    fields = read_config(written(tmp_path, RETINA, MIXED + USED)).config.task
    assert fields.photo_transforms == (PhotoMetricDistortion(),)
    assert fields.transforms == (
        Mosaic(img_scale=(64, 32)),
        RandomAffine(scaling_ratio_range=(0.1, 2), border=(-32, -16), border_val=(3, 2, 1)),
        MixUp(img_scale=(64, 32), ratio_range=(0.8, 1.6)),
        YOLOXHSVRandomAug(),
        RandomFlip(prob=0.5),
        Resize(scale=(64, 32), keep_ratio=True),
        Pad(pad_to_square=True, pad_val=(114, 114, 114)),
        FilterAnnotations(min_gt_bbox_wh=(1, 1), keep_empty=False),
    )


def test_a_mixed_data_set_may_be_repeated_and_steps_left_out(tmp_path: Path) -> None:
    text = (
        "mixed['skip_type_keys'] = ['Mosaic', 'MixUp']\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=3, dataset=mixed))\n"
    )
    reading = read_config(written(tmp_path, RETINA, MIXED + text))
    kinds = [step.type for step in reading.config.task.transforms]
    assert kinds == ["RandomAffine", "YOLOXHSVRandomAug", "RandomFlip", "Resize", "Pad", "FilterAnnotations"]
    part = reading.config.data.splits["train"]
    assert isinstance(part, Repeat)
    assert isinstance(part.part, Files)
    assert part.times == 3
    told = {entry.key: entry.reason for entry in reading.ignored}
    assert told["train_dataloader.dataset.dataset.pipeline.0"] == "skip_type_keys names it"


def test_where_masks_are_read_they_are_pasted(tmp_path: Path) -> None:
    text = "train_dataloader = dict(dataset=dict(pipeline=[dict(type='CopyPaste', paste_by_box=True), dict(type={})]))"
    reading = read_config(written(tmp_path, PASTING, text.format("'PackDetInputs'")))
    assert reading.config.task.transforms == (CopyPaste(),)
    assert "pipeline.0.paste_by_box: masks are there to be pasted." in "\n".join(reading.told())


def mixed(text: str, *, used: str = USED) -> str:
    return f"{MIXED}{text}\n{used}"


WITHIN = "train_dataloader = dict(dataset=dict(_delete_=True, type='{}', {}))\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (mixed("mixed['max_refetch'] = 3"), r"train_dataloader\.dataset\.max_refetch is 3; jaxft knows 15 only"),
        (mixed("mixed['dynamic_scale'] = (9, 9)"), r"train_dataloader\.dataset\.dynamic_scale: jaxft does not know"),
        (mixed("mixed['skip_type_keys'] = ['CopyPaste']"), r"skip_type_keys is .*; no step of .* the type CopyPaste"),
        (mixed("mixed['skip_type_keys'] = ['PackDetInputs']"), r"pipeline: one LoadImageFromFile must be the first"),
        (mixed("pipeline[0]['img_scale'] = (0, 9)"), r"dataset\.pipeline\.0\.img_scale\.0 is 0"),
        (mixed("pipeline[0]['center_ratio_range'] = (1.5, 0.5)"), r"pipeline\.0\.center_ratio_range is .*: the first"),
        (mixed("pipeline[0]['pad_val'] = (1, 2, 3)"), r"pipeline\.0\.pad_val is \(1, 2, 3\)"),
        (mixed("pipeline[0]['size'] = 3"), r"pipeline\.0\.size: jaxft does not know this setting"),
        (mixed("pipeline[2]['max_iters'] = 0"), r"pipeline\.2\.max_iters is 0"),
        (mixed("pipeline[0] = dict(type='CopyPaste')"), r"pipeline\.0\.paste_by_box is False; the model learns no mas"),
        (mixed("pipeline[0] = dict(type='CachedMosaic')"), r"pipeline\.0\.type is 'CachedMosaic', which jaxft"),
        (mixed("pipeline[0] = dict(type='Albu')"), r"pipeline\.0\.type is 'Albu': it needs the package"),
        (mixed("pipeline[0] = dict(type='LoadAnnotations')"), r"pipeline\.0\.type is 'LoadAnnotations'; before photos"),
        (mixed("load.append(dict(type='Mosaic'))"), r"dataset\.dataset\.pipeline\.3\.type is 'Mosaic'; it takes furt"),
        (mixed("load.append(dict(type='PackDetInputs'))"), r"pipeline: one LoadImageFromFile must be the first step"),
        (
            mixed("", used=WITHIN.format("ConcatDataset", "datasets=[mixed, photos]")),
            r"datasets\.0\.type is 'MultiImageMixDataset'; only the whole data set",
        ),
        (
            mixed("", used=WITHIN.format("ClassBalancedDataset", "oversample_thr=0.1, dataset=mixed")),
            r"dataset\.dataset\.type is 'MultiImageMixDataset'; only the whole data set",
        ),
        (
            mixed("", used="val_dataloader = dict(dataset=dict(_delete_=True, **mixed))\n"),
            r"val_dataloader\.dataset\.type is 'MultiImageMixDataset'; only the whole data set of training",
        ),
        (
            mixed("custom_hooks = [dict(type='YOLOXModeSwitchHook', num_last_epochs=15)]"),
            r"custom_hooks\.0\.type is 'YOLOXModeSwitchHook'",
        ),
    ],
)  # fmt: skip
def test_what_is_not_done_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_any(written(tmp_path, RETINA, text))


def test_examples_come_of_a_mixed_configuration(tmp_path: Path) -> None:
    write_coco(tmp_path, (1, 2, 0, 3, 1), "train")
    settings = read_config(written(tmp_path, RETINA, MIXED + USED)).config
    data = replace(settings.data, root=str(tmp_path), validation=None)
    examples, _ = open_datasets(data, settings.task, 0)
    assert examples.pad_shapes == ((64, 64),)  # as wide as the mosaic is after the affine step, padded to a square
    assert "Mosaic, MixUp: up to 15 boxes come together" in examples.report(2)
    with train_batches(examples, batch_size=2, seed=0) as batches:
        found = [next(batches) for _ in range(30)]
    assert {batch["image"].shape for batch in found} == {(2, 64, 64, 3)}
    assert np.concatenate([batch["valid"].sum(1) for batch in found]).max() > 3
