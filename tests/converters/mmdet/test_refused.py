"""Settings of MMDetection's configurations that are refused by name."""

from pathlib import Path

import pytest

from converters.mmdet.training import load_any
from jaxft.errors import UserError
from tests.converters.mmdet.files import RETINA, written

TRAIN = "train_dataloader = dict(dataset=dict({}))"
VAL = "val_dataloader = dict(dataset=dict({}))"
STEP = "train_dataloader = dict(dataset=dict(pipeline=[dict({})]))"
LOADED = "type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict("
PREPROCESSOR = "model = dict(data_preprocessor=dict({}))"
FIXED = "batch_augments=[dict(type='BatchFixedSizePad', size=(9,))]"
ADAM = "optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1., betas=(0.9,)))"
REFUSED = [
    (ADAM, r"optim_wrapper\.optimizer\.betas is \(0\.9,\); a list of two numbers was expected"),
    ("optim_wrapper = dict(optimizer=dict(_delete_=True, type='Lion', lr=1.))", r"optimizer\.type is 'Lion'"),
    ("optim_wrapper = dict(constructor='LayerDecay')", r"optim_wrapper\.constructor is 'LayerDecay'"),
    ("optim_wrapper = dict(paramwise_cfg=dict(dwconv_decay_mult=0.))", r"paramwise_cfg\.dwconv_decay_mult is 0"),
    ("optim_wrapper = dict(clip_grad=dict(type='value', clip_value=1))", r"optim_wrapper\.clip_grad\.type is 'value'"),
    ("optim_wrapper = dict(type='AmpOptimWrapper', dtype='float16')", r"optim_wrapper\.dtype is 'float16'; jaxft"),
    ("optim_wrapper = dict(optimizer=dict(momentum=2.))", r"Optimizer\.momentum: .*less than 1, found 2"),
    ("train_cfg = dict(dynamic_intervals=[(3, 1)])", r"train_cfg\.dynamic_intervals is \[\(3, 1\)\]"),
    ("train_cfg = dict(type='MyLoop')", r"train_cfg\.type is 'MyLoop'"),
    ("val_cfg = dict(fp16=True)", r"val_cfg\.fp16 is True"),
    ("param_scheduler = [dict(type='CosineAnnealing')]", r"param_scheduler\.0\.type is .*CosineAnnealingLR\?"),
    ("param_scheduler = [dict(type='StepLR')]", r"param_scheduler\.0\.step_size is missing"),
    ("param_scheduler = [dict(type='PolyLR', begin=3, end=2)]", r"param_scheduler\.0: end must be larger than begin"),
    ("param_scheduler = [dict(type='PolyLR', gamma=3)]", r"param_scheduler\.0\.gamma: jaxft does not know"),
    (TRAIN.format("type='OpenImagesDataset'"), r"dataset\.type is 'OpenImagesDataset': Open Images' CSV files"),
    (TRAIN.format("type='DSDLDetDataset'"), r"dataset\.type is 'DSDLDetDataset': DSDL's YAML files are not read"),
    (TRAIN.format("type='MyDataset'"), r"train_dataloader\.dataset\.type is 'MyDataset', which jaxft does not"),
    (TRAIN.format("filter_cfg=dict(bbox_min_size=3)"), r"dataset\.filter_cfg\.bbox_min_size: jaxft does not know"),
    (TRAIN.format("proposal_file='proposals.pkl'"), r"train_dataloader\.dataset\.proposal_file is 'proposals\.pkl'"),
    (TRAIN.format("backend_args=dict(_delete_=True, backend='petrel')"), r"dataset\.backend_args\.backend is 'petrel'"),
    (TRAIN.format("metainfo=dict(classes=('a',))"), r"val_dataloader\.dataset\.metainfo\.classes are other classes"),
    (TRAIN.format("return_classes=True"), r"train_dataloader\.dataset\.return_classes is True"),
    ("train_dataloader = dict(sampler=dict(type='ClassAwareSampler'))", r"sampler\.type is 'ClassAwareSampler'"),
    ("train_dataloader = dict(sampler=dict(type='InfiniteSampler'))", r"sampler\.type is 'InfiniteSampler'"),
    ("train_dataloader = dict(num_batch_per_epoch=5)", r"train_dataloader\.num_batch_per_epoch is 5"),
    ("train_dataloader = dict(batch_sampler=dict(type='Mine'))", r"train_dataloader\.batch_sampler\.type is 'Mine'"),
    ("train_dataloader = dict(collate_fn=dict(type='mine'))", r"train_dataloader\.collate_fn\.type is 'mine'"),
    ("train_dataloader = dict(speed=3)", r"train_dataloader\.speed: jaxft does not know this setting"),
    ("train_dataloader = dict(sampler=None)", r"train_dataloader\.sampler is None; a dict was expected"),
    (TRAIN.format("data_root=5"), r"train_dataloader\.dataset\.data_root is 5; a name was expected"),
    (STEP.format("type='Mosaic'"), r"pipeline\.0\.type is 'Mosaic'; it takes further photos, so it must stand in the"),
    (STEP.format("type='InstaBoost'"), r"pipeline\.0\.type is 'InstaBoost': it needs the package instaboostfast"),
    (STEP.format(f"{LOADED}type='Resize', scale=(9, 9), ratio=2"), r"pipeline\.2\.ratio: jaxft does not know"),
    (STEP.format(f"{LOADED}type='Resize', scale=(9, 9), backend='pillow'"), r"pipeline\.2\.backend is 'pillow'"),
    (STEP.format(f"{LOADED}type='RandomFlip', prob='half'"), r"pipeline\.2\.prob.* is 'half'"),
    (STEP.format(f"{LOADED}type='Pad', size=(9, 9), padding_mode='edge'"), r"pipeline\.2\.padding_mode is 'edge'"),
    (STEP.format("type='LoadImageFromFile', color_type='grayscale'"), r"pipeline\.0\.color_type is 'grayscale'"),
    (STEP.format("type='LoadImageFromFile', imdecode_backend='tifffile'"), r"pipeline\.0\.imdecode_backend is"),
    (STEP.format("type='LoadImageFromFile'"), r"dataset\.pipeline has no LoadAnnotations"),
    (STEP.format("type='Resize', scale=(9, 9)), dict(type='LoadAnnotations'"), r"pipeline\.1\.type: annotations must"),
    (STEP.format("type='LoadAnnotations', with_label=False"), r"pipeline\.0\.with_label is False, but the model"),
    (STEP.format("type='LoadAnnotations', with_mask=True"), r"pipeline\.0\.with_mask is True, but the model learns no"),
    (TRAIN.format("pipeline=[]"), r"train_dataloader\.dataset\.pipeline has no LoadAnnotations"),
    (
        STEP.format(f"{LOADED}type='Resize', scale=(9, 9)"),
        r"dataset\.pipeline: one LoadImageFromFile must be",
    ),
    (STEP.format(f"{LOADED}type='RandomChoice', transforms=5"), r"pipeline\.2\.transforms is 5; a list of steps"),
    (VAL.format("pipeline=[dict(type='RandomFlip')]"), r"val_dataloader\.dataset\.pipeline\.0\.type is 'RandomFlip'"),
    (VAL.format("pipeline=[dict(type='Resize', scale=9)]"), r"test_dataloader\.dataset\.pipeline is another one than"),
    ("val_evaluator = dict(ann_file='other.json')", r"val_evaluator\.ann_file is 'other\.json'; .*data set, data/coco"),
    ("val_evaluator = dict(type='MyMetric')", r"val_evaluator\.type is 'MyMetric'"),
    ("val_evaluator = dict(metric='segm')", r"val_evaluator\.metric is \('segm',\); but the model finds no masks"),
    ("val_evaluator = dict(metric='mAP')", r"val_evaluator\.metric is 'mAP'; known are bbox"),
    ("val_evaluator = dict(format_only=True)", r"val_evaluator\.format_only is True"),
    ("val_evaluator = dict(proposal_nums=(1, 10))", r"val_evaluator\.proposal_nums is .*; 100 must be among them"),
    ("val_evaluator = dict(_delete_=True, type='VOCMetric', metric='recall')", r"val_evaluator\.metric is 'recall'"),
    ("val_cfg = None", r"val_cfg is None; with a val_dataloader there must be one"),
    ("val_dataloader = None", r"val_cfg is .*; jaxft knows none only"),
    ("custom_hooks = [dict(type='MyHook')]", r"custom_hooks\.0\.type is 'MyHook'"),
    ("custom_hooks = [dict(type='YOLOXModeSwitchHook')]", r"custom_hooks\.0\.type is 'YOLOXModeSwitchHook'"),
    ("custom_hooks = [dict(type='EMAHook', begin_epoch=3)]", r"custom_hooks\.0\.begin_epoch is 3"),
    ("custom_hooks = [dict(type='EMAHook', ema_type='StochasticWeightAverage')]", r"0\.ema_type is 'Stochastic"),
    ("custom_hooks = [dict(type='EarlyStoppingHook', monitor='x')]", r"0\.rule is None; whether a large or a small x"),
    ("custom_hooks = [dict(type='EMAHook'), dict(type='EMAHook')]", r"custom_hooks\.1\.type is 'EMAHook'; there is an"),
    ("custom_hooks = [dict(type='LoggerHook')]", r"custom_hooks\.0\.type is 'LoggerHook'; there is another one"),
    ("default_hooks = dict(param_scheduler=None)", r"default_hooks\.param_scheduler is None; leave out"),
    (
        "default_hooks = dict(checkpoint=dict(save_best='coco/AR@100'))",
        r"save_best is 'coco/AR@100'; .*--best-metric",
    ),
    ("default_hooks = dict(checkpoint=dict(save_best=['a', 'b']))", r"checkpoint\.save_best is .*by one figure"),
    (PREPROCESSOR.format("type='Mine'"), r"model\.data_preprocessor\.type is 'Mine'"),
    (PREPROCESSOR.format("pad_size_divisor=0"), r"pad_size_divisor is 0; a positive number"),
    (PREPROCESSOR.format("batch_augments=5"), r"model\.data_preprocessor\.batch_augments is 5, not a list"),
    (PREPROCESSOR.format(FIXED), r"batch_augments\.0\.size is \(9,\); height and width"),
    ("model = dict(backbone=dict(frozen_stages=5))", r"model\.backbone\.frozen_stages is 5; a backbone has 4 stages"),
    ("model = dict(backbone=dict(frozen_stages=1.5))", r"model\.backbone\.frozen_stages is 1\.5; a whole number"),
    (
        "model = dict(bbox_head=dict(feat_channels=-1))",
        r"model cannot be built with the sizes that it gives",
    ),
    (PREPROCESSOR.format("pad_value=114"), r"model\.data_preprocessor\.pad_value is 114"),
    (PREPROCESSOR.format("rgb_to_bgr=True"), r"model\.data_preprocessor\.rgb_to_bgr is True; not both"),
    (PREPROCESSOR.format("boxtype2tensor=False"), r"model\.data_preprocessor\.boxtype2tensor is False"),
    (PREPROCESSOR.format("batch_augments=[dict(type='BatchSyncRandomResize')]"), r"batch_augments\.0\.type is"),
    ("resume = True", r"resume is True; go on with a run by --resume"),
    ("model_wrapper_cfg = dict(type='Mine')", r"model_wrapper_cfg\.type is 'Mine'"),
    ("optim_wraper = dict(accumulative_counts=4)", r"optim_wraper is no setting; did you mean optim_wrapper\?"),
    ("lr_config = dict(policy='step')", r"lr_config is a setting of MMDetection 2"),
    ("randomness = dict(seeds=3)", r"randomness\.seeds: jaxft does not know this setting"),
    ("auto_scale_lr = dict(enabled=True)", r"auto_scale_lr\.enabled: jaxft does not know this setting"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_not_done_is_an_error_that_names_its_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_any(written(tmp_path, RETINA, text))
