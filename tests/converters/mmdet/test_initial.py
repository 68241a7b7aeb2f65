"""`init_cfg` of MMDetection configurations, against detectors that live MMDetection initializes."""

import copy
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained
from converters.mmdet import create_model
from converters.mmdet.coverage import abstract
from converters.mmdet.initial import DEFAULTS, planned, read_initial
from converters.mmdet.model import parse
from converters.mmdet.section import ConfigError, Ignored
from converters.mmdet.training import understood
from converters.rules import leaves
from jaxft.models.paths import filled, values
from jaxft.models.streams import QUICK, initial_rngs
from tests import mmdet_live
from tests.distributions import check_alike

torch = pytest.importorskip("torch")

RETINA = "retinanet_r50_fpn_1x_coco.py"
CASCADE = "cascade-mask-rcnn_r50_fpn_1x_coco.py"
FACES = {"type": "Normal", "std": 0.3, "bias": 0.2, "layer": "Conv2d"}
NORMS = {"type": "Constant", "val": 0.7, "bias": 0.1, "layer": ["_BatchNorm", "GroupNorm"]}


def small(name: str, **changes: Any) -> dict[str, Any]:
    """A narrow model dict whose backbone has two stages; `changes` are entries by dotted path, with `__` for points."""
    model = copy.deepcopy(mmdet_live.config(name).model.to_dict())
    model["backbone"] |= {"depth": 18, "base_channels": 32, "num_stages": 2, "strides": (1, 2), "dilations": (1, 1)}
    model["backbone"] |= {"out_indices": (0, 1), "frozen_stages": -1}
    del model["backbone"]["init_cfg"]
    model["neck"] |= {"in_channels": [32, 64], "out_channels": 32, "start_level": 0}
    head = model.get("roi_head", {})
    boxes = head.get("bbox_head", [])
    for part in [model.get("bbox_head"), model.get("rpn_head"), head.get("mask_head"), *boxes]:
        if part:
            part["in_channels"] = 32
            part |= {key: 32 for key in ("feat_channels", "fc_out_channels", "conv_out_channels") if key in part}
            part |= {"stacked_convs": 1} if "stacked_convs" in part else {}
            part |= {"roi_feat_size": 3} if "roi_feat_size" in part else {}
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        if extractor in head:
            head[extractor]["out_channels"] = 32
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = model
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[last] = value
    return model


CASES: dict[str, dict[str, Any]] = {
    "defaults": small(CASCADE),
    "heads": small(
        RETINA,
        neck__norm_cfg={"type": "BN"},
        neck__init_cfg=[{"type": "Caffe2Xavier", "layer": "Conv2d", "bias": 0.3}, NORMS],
        bbox_head__init_cfg={**FACES, "override": {"type": "Xavier", "name": "retina_cls", "bias_prob": 0.2}},
    ),
    "backbone": small(
        RETINA,
        backbone__init_cfg=[NORMS],
        neck__init_cfg=None,
        bbox_head__init_cfg={"type": "Uniform", "override": [{"name": "retina_reg"}]},
    ),
    "from-outside": small(
        CASCADE,
        init_cfg=[{**FACES, "layer": ["Conv2d", "Linear", "ConvTranspose2d"]}, NORMS],
        neck__norm_cfg={"type": "BN"},
        rpn_head__init_cfg={"type": "Kaiming", "override": {"name": "rpn_cls"}},
        roi_head__init_cfg={"type": "Uniform", "layer": "Linear", "bias": 3},
        roi_head__bbox_head__1__init_cfg={"type": "Constant", "val": 2, "override": {"name": "fc_cls"}},
    ),
    "context": small(
        RETINA,
        backbone__depth=50,
        backbone__plugins=[
            {"cfg": {"type": "ContextBlock", "ratio": 0.25}, "stages": (False, True), "position": "after_conv3"}
        ],
        neck__in_channels=[128, 256],
    ),
}


def anchors_for(model: dict[str, Any], levels: int) -> None:
    """As many strides as the neck has maps."""
    model["neck"]["num_outs"] = levels
    model["neck"].pop("add_extra_convs", None)
    for name in ("rpn_head", "bbox_head"):
        if name in model:
            generator = model[name]["anchor_generator"]
            generator["strides"] = generator["strides"][:levels]


@pytest.mark.parametrize("name", CASES)
def test_a_detector_starts_as_mmdetections(name: str) -> None:
    model = CASES[name]
    anchors_for(model, 3)
    torch.manual_seed(0)
    theirs = mmdet_live.build(model)
    with mmdet_live.quiet():
        theirs.init_weights()
    wanted = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    template = abstract(model)
    part = parse(model)
    arrays = jax.jit(lambda key: values(part(rngs=initial_rngs(key))), compiler_options=QUICK)(jax.random.key(1))
    ours = filled(template, arrays)
    found = {leaf.key: leaf.to_torch(np.asarray(leaf.variable[...])) for leaf in leaves(ours)}
    assert found.keys() == wanted.keys()
    for key in wanted:
        check_alike(key, found[key], wanted[key])


KINDS: dict[str, dict[str, Any]] = {
    "ResNet": {"depth": 18},
    "ResNetV1d": {"depth": 50},
    "ResNeXt": {"depth": 50},
    "RegNet": {"arch": "regnetx_400mf"},
    "FPN": {"in_channels": [8], "out_channels": 8, "num_outs": 1},
    "HRFPN": {"in_channels": [8], "out_channels": 8},
    "RPNHead": {"in_channels": 8},
    "RetinaHead": {"num_classes": 2, "in_channels": 8},
    "FCOSHead": {"num_classes": 2, "in_channels": 8},
    "Shared2FCBBoxHead": {"num_classes": 2, "in_channels": 8},
    "Shared4Conv1FCBBoxHead": {"num_classes": 2, "in_channels": 8},
    "ConvFCBBoxHead": {"num_classes": 2, "in_channels": 8, "num_shared_fcs": 1},
}
SAMPLES = {"HRNet": "faster-rcnn_hrnetv2p-w18-1x_coco.py", "ATSSHead": "atss_r50_fpn_1x_coco.py"}
SAMPLES |= {"GFLHead": "gfl_r50_fpn_1x_coco.py"}


@pytest.mark.parametrize("kind", [kind for kind in DEFAULTS if kind != "FCNMaskHead"])
def test_the_rules_of_a_class_are_mmdetections(kind: str) -> None:
    if kind in KINDS:
        settings = {"type": kind, **KINDS[kind]}
    else:
        model = mmdet_live.config(SAMPLES[kind]).model
        settings = dict(model["backbone" if kind == "HRNet" else "bbox_head"], init_cfg=None)
        settings |= {"train_cfg": None} if kind != "HRNet" else {}
        if kind != "HRNet":
            del settings["init_cfg"]
    with mmdet_live.quiet():
        found = mmdet_live.MODELS.build(settings).init_cfg
    assert [dict(rule) for rule in ([found] if isinstance(found, dict) else found)] == [*map(dict, DEFAULTS[kind])]


def test_what_a_file_does_not_speak_of_is_drawn_as_ever() -> None:
    model = small(RETINA)
    template = abstract(model)
    assert planned(template, read_initial(model, [])) == {}
    model["backbone"]["init_cfg"] = {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}
    assert planned(template, read_initial(model, [])) == {}


def test_what_is_loaded_stays() -> None:
    model = small(RETINA, bbox_head__init_cfg=FACES)
    anchors_for(model, 3)
    whole = create_model(model, rngs=nnx.Rngs(3))
    state = {leaf.key: leaf.to_torch(np.asarray(leaf.variable[...])) for leaf in leaves(whole)}
    fresh = create_model(model, rngs=nnx.Rngs(4))
    load_pretrained(fresh, state, skip=("bbox_head.retina_cls",))
    ours, theirs = values(fresh), values(whole)
    for path, array in theirs.items():
        if path == "bbox_head.retina_cls.kernel":
            assert (np.asarray(array) != np.asarray(ours[path])).all()
        else:
            np.testing.assert_array_equal(array, ours[path], err_msg=path)


def test_checkpoints_in_a_list_of_rules_and_with_a_prefix_are_found() -> None:
    config = mmdet_live.config(RETINA).to_dict()
    backbone = config["model"]["backbone"]
    backbone["init_cfg"] = [NORMS, {"type": "PretrainedInit", "checkpoint": "torchvision://resnet50"}]
    found = understood(config).config.pretrained
    assert (found.source, found.rename) == ("torchvision://resnet50/IMAGENET1K_V1", {"": "backbone."})
    backbone["init_cfg"] = {"type": "Pretrained", "checkpoint": "a.pth", "prefix": "encoder"}
    found = understood(config).config.pretrained
    assert (found.prefix, found.rename) == ("encoder.", {"": "backbone."})
    config["model"]["init_cfg"] = {"type": "Pretrained", "checkpoint": "b.pth", "prefix": "student."}
    found = understood(config).config.pretrained
    assert (found.source, found.prefix, found.rename) == ("b.pth", "student.", {})


def test_a_rule_without_a_place_is_passed_over_by_name() -> None:
    ignored: list[Ignored] = []
    parse(small(RETINA, neck__init_cfg={"type": "Normal", "std": 3}), None, ignored)
    assert "model.neck.init_cfg" in {entry.key for entry in ignored}
    assert not any("backbone.init_cfg" in entry.key for entry in ignored)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neck__init_cfg": {"type": "Orthogonal"}}, r"model\.neck\.init_cfg: .*'Orthogonal'"),
        ({"neck__init_cfg": {"type": "Normal", "layer": "Conv9d"}}, r"model\.neck\.init_cfg: .*'Conv9d' is no kind"),
        ({"neck__init_cfg": "Normal"}, r"model\.neck\.init_cfg is 'N'; a dict or a list"),
        (
            {"bbox_head__init_cfg": {**FACES, "override": {"std": 1}}},
            r"bbox_head\.init_cfg: .*an override needs a name",
        ),
        ({"bbox_head__init_cfg": {**FACES, "override": {"name": "no"}}}, "override names 'no', which the RetinaHead"),
        ({"neck__init_cfg": {"type": "Pretrained", "checkpoint": "a"}}, r"neck\.init_cfg is of the type Pretrained"),
        ({"backbone__init_cfg": {"type": "Xavier", "layer": "_BatchNorm"}}, "Xavier needs the fans of a kernel"),
    ],
)
def test_what_is_not_done_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(small(RETINA, **changes))


def test_the_mask_head_allows_none() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.roi_head\.mask_head\.init_cfg: MMDetection's FCNMaskHead allows none"
    ):
        parse(small(CASCADE, roi_head__mask_head__init_cfg=FACES))


def test_rules_by_the_names_of_classes_mean_the_same() -> None:
    first = partial(small, RETINA, neck__init_cfg=[FACES])()
    other = small(RETINA, neck__init_cfg=[FACES | {"type": "mmengine.model.NormalInit"}])
    assert read_initial(first, []) == read_initial(other, [])
