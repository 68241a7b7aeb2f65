"""What MMDetection's configurations freeze, and their rates and decays, against MMEngine's own optimizers."""

from pathlib import Path
from typing import Any

import pytest

from converters.mmdet.coverage import abstract
from converters.mmdet.rules import read_rules
from converters.mmdet.section import Section
from converters.mmdet.training import read_config
from converters.rules import leaves
from jaxft import config
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import modules, walk
from jaxft.training.optim import parameter_groups, set_modes
from tests import mmdet_live
from tests.converters.mmdet.files import RETINA, written

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
        # Frozen normalization in the neck and the heads, too.
        ("faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py", {}),
        ("fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py", {}),
    ],
)
def test_every_parameter_gets_the_rate_and_decay_that_mmengine_gives_it(
    name: str, backbone: dict[str, Any], paramwise: dict[str, Any]
) -> None:
    with mmdet_live.quiet():
        from mmengine.optim import DefaultOptimWrapperConstructor

    model = mmdet_live.config(name).model.to_dict()
    model["backbone"] |= backbone
    for stage in model["backbone"].get("extra", {}).values():  # of HRNet, which is deep
        stage |= {"num_modules": 1, "num_blocks": (1,) * stage["num_branches"]}
    if "faster-rcnn" in name:
        for part in (model["neck"], model["roi_head"]["bbox_head"]):
            part["norm_cfg"] = part["norm_cfg"] | {"requires_grad": False}
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


def test_custom_keys_are_those_of_pytorchs_names(tmp_path: Path) -> None:
    text = "optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'retina_cls.weight': dict(lr_mult=3.), 'layer9': {}}))"
    reading = read_config(written(tmp_path, RETINA, text))
    assert [rule.pattern for rule in reading.config.phases[0].rules if rule.lr_scale == 3] == ["*retina_cls.kernel*"]
    told = {entry.key: entry.reason for entry in reading.ignored}
    assert told["optim_wrapper.paramwise_cfg.custom_keys.layer9"] == "no parameter of the model has this in its name"
