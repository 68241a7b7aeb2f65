"""MMDetection's configurations as models of this project: `create_model("faster-rcnn_r50_fpn_1x_coco.py")`.

Every setting of a `model` dict is taken, checked to be the one that is built, or an error that names its key. Each
function below turns one part of it into a constructor that only lacks `rngs`, so that nothing is drawn before all of it
is understood.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flax import nnx

from converters import mmdet_backbones, mmdet_roi
from converters import mmdet_values as values
from converters.mmdet_file import read
from converters.mmdet_section import ConfigError, Section, flag, number, standardised, text, whole, wholes
from jaxft.errors import UserError
from jaxft.models.anchor_free_heads import ATSSHead, FCOSHead
from jaxft.models.backbones import ResNet
from jaxft.models.dense_heads import RetinaHead, RPNHead
from jaxft.models.detection_types import Norm
from jaxft.models.detectors import SingleStage, TwoStage
from jaxft.models.fpn import FPN
from jaxft.models.gfl_head import GFLHead

Part = Callable[..., Any]
SMOOTH_L1 = {"type": "SmoothL1Loss", "beta": 1 / 9}
SINGLE_STAGE = {"RetinaNet": "RetinaHead", "FCOS": "FCOSHead", "ATSS": "ATSSHead", "GFL": "GFLHead"}
TWO_STAGE = ("FasterRCNN", "MaskRCNN", "CascadeRCNN")


def create_model(
    config: str | Path | Mapping[str, Any], *, num_classes: int | None = None, rngs: nnx.Rngs | None = None
) -> nnx.Module:
    """The detector that an MMDetection configuration describes, under MMDetection's names, freshly initialised.

    Args:
        config: a configuration file, `mmdet::NAME` for one of the installed package, or its `model` dict.
        num_classes: in the place of the configuration's own numbers, in every head.
        rngs: where initial values and sampling draw from; seed 0 where it is None.

    Raises:
        UserError: the file cannot be read, or something in it is not built; the message names its key.
    """
    return parse(config, num_classes)(rngs=rngs or nnx.Rngs(0))


def parse(config: str | Path | Mapping[str, Any], num_classes: int | None = None) -> Part:
    """The detector's constructor, which takes `rngs` alone. The arguments are those of `create_model`."""
    model = model_dict(config)
    section = Section(with_classes(model, num_classes), "model")
    section.ignore("init_cfg")
    _check_levels(section)
    kind = section.type([*TWO_STAGE, *SINGLE_STAGE, "RPN"])
    divisor = _divisor(section)
    parts: dict[str, Any] = {"backbone": _backbone(section), "neck": _neck(section)}
    if kind in TWO_STAGE:
        parts |= _two_stage(section, kind, divisor)
    elif kind == "RPN":
        train, test = section.section("train_cfg"), section.section("test_cfg")
        parts["bbox_head"] = _rpn_head(section, train.section("rpn"), test.section("rpn"), divisor)
        train.ignore("rpn_proposal")
        train.done()
        test.done()
    else:
        parts["bbox_head"] = _dense_head(section, SINGLE_STAGE[kind], divisor)
    section.done()
    return partial(_assemble, TwoStage if kind in TWO_STAGE else SingleStage, parts)


def _two_stage(parent: Section, kind: str, divisor: int | None) -> dict[str, Any]:
    train, test = parent.section("train_cfg"), parent.section("test_cfg")
    parts: dict[str, Any] = {
        "rpn_head": _rpn_head(parent, train.section("rpn"), test.section("rpn"), divisor),
        "rpn_proposal": None,
    }
    if train.has("rpn_proposal"):
        parts["rpn_proposal"] = values.selection(train.section("rpn_proposal"))
    train.ignore("rpn_proposal")
    parts["roi_head"] = mmdet_roi.roi_head(parent.section("roi_head"), train, test, cascade=kind == "CascadeRCNN")
    train.done()
    test.done()
    return parts


def _assemble(detector: type[nnx.Module], parts: Mapping[str, Any], *, rngs: nnx.Rngs) -> nnx.Module:
    return detector(**{name: part(rngs=rngs) if callable(part) else part for name, part in parts.items()})


def model_dict(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The `model` of a configuration: of a file, of a whole configuration, or the dictionary itself."""
    whole_config = read(config) if isinstance(config, str | Path) else config
    found = whole_config if "type" in whole_config else whole_config.get("model")
    if not isinstance(found, Mapping):
        where = config if isinstance(config, str | Path) else "This configuration"
        raise UserError(f"{where} has no `model` dict, as configurations of MMDetection have.")
    return dict(found)


def class_counts(model: Mapping[str, Any]) -> dict[str, int]:
    """The number of classes of each head that has one, by its dotted path."""
    return {path: head.get("num_classes", 80) for path, head in _heads(model) if isinstance(head, Mapping)}


def with_classes(model: Mapping[str, Any], num_classes: int | None) -> dict[str, Any]:
    """A copy of a `model` dict with another number of classes in every head.

    Raises:
        UserError: `num_classes` is None and the heads do not agree.
    """
    changed = copy.deepcopy(dict(model))
    if num_classes is not None:
        for _, head in _heads(changed):
            head["num_classes"] = num_classes
    elif len(set((counts := class_counts(model)).values())) > 1:
        listed = ", ".join(f"{path}.num_classes = {count}" for path, count in counts.items())
        raise ConfigError(next(iter(counts)), "heads of different numbers of classes", f"The heads disagree: {listed}.")
    return changed


def _heads(model: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    roi_head = model.get("roi_head")
    places = [("model.bbox_head", model.get("bbox_head"))]
    if isinstance(roi_head, Mapping):
        places += [(f"model.roi_head.{name}", roi_head.get(name)) for name in ("bbox_head", "mask_head")]
    for path, found in places:
        if isinstance(found, Mapping):
            yield path, found
        elif isinstance(found, list | tuple):
            yield from ((f"{path}.{index}", head) for index, head in enumerate(found))


def _divisor(section: Section) -> int | None:
    """What the sides of padded photos are multiples of; None where all are padded to one size."""
    if not section.has("data_preprocessor"):
        section.ignore("data_preprocessor")
        return 32
    preprocessor = section.section("data_preprocessor")
    kinds = [step.get("type") for step in preprocessor.values.get("batch_augments") or ()]
    return None if "BatchFixedSizePad" in kinds else preprocessor.take("pad_size_divisor", whole, 1)


def _backbone(parent: Section) -> Part:
    section = parent.section("backbone")
    kind = section.type(["ResNet", "ResNetV1d", "ResNeXt", "RegNet", "HRNet"])
    section.ignore("frozen_stages", "norm_eval", "init_cfg", "pretrained", "with_cp", "stage_with_dcn")
    section.only(dcn=None, plugins=None)
    even = section.standardises()
    if kind in ("RegNet", "HRNet"):
        other = mmdet_backbones.regnet(section) if kind == "RegNet" else mmdet_backbones.hrnet(section)
        return standardised(other) if even else other
    options: dict[str, Any] = {
        "depth": section.take("depth", whole),
        "in_channels": section.take("in_channels", whole, 3),
        "stem_channels": section.take("stem_channels", whole) if section.has("stem_channels") else None,
        "base_channels": section.take("base_channels", whole, 64),
        "num_stages": section.take("num_stages", whole, 4),
        "strides": section.take("strides", wholes, (1, 2, 2, 2)),
        "dilations": section.take("dilations", wholes, (1, 1, 1, 1)),
        "out_indices": section.take("out_indices", wholes, (0, 1, 2, 3)),
        "style": section.take("style", text, "pytorch"),
        "deep_stem": section.take("deep_stem", flag, kind == "ResNetV1d"),
        "avg_down": section.take("avg_down", flag, kind == "ResNetV1d"),
        "norm_cfg": values.norm(section, {"type": "BN"}) or Norm(),
        "zero_init_residual": section.take("zero_init_residual", flag, True),
    }
    if kind == "ResNeXt":
        options |= {"groups": section.take("groups", whole, 1), "base_width": section.take("base_width", whole, 4)}
    section.done()
    made = partial(ResNet, **options)
    return standardised(made) if even else made


def _neck(parent: Section) -> Part | None:
    if not parent.has("neck"):
        parent.ignore("neck")
        return None
    if isinstance(parent.values["neck"], list | tuple):
        key = parent.key("neck")
        raise ConfigError(key, f"{key} of several parts", f"{key} has several parts; jaxft builds one FPN.")
    section = parent.section("neck")
    kind = section.type(["FPN", "HRFPN"])
    section.ignore("init_cfg", "with_cp")
    if kind == "HRFPN":
        return mmdet_backbones.hrfpn(section)
    section.only(act_cfg=None, upsample_cfg={"mode": "nearest"})
    even = section.standardises()
    extra = section.values.pop("add_extra_convs", False)
    channels, outs = section.take("in_channels", wholes), section.take("num_outs", whole)
    start, end = section.take("start_level", whole, 0), section.take("end_level", whole, -1)
    _check_outs(section, outs, len(channels), start, end)
    made = partial(
        FPN,
        in_channels=channels,
        out_channels=section.take("out_channels", whole),
        num_outs=outs,
        start_level=start,
        end_level=end,
        add_extra_convs=extra if isinstance(extra, str) else bool(extra),
        relu_before_extra_convs=section.take("relu_before_extra_convs", flag, False),
        no_norm_on_lateral=section.take("no_norm_on_lateral", flag, False),
        norm_cfg=values.norm(section),
    )
    section.done()
    return standardised(made) if even else made


def _check_outs(section: Section, num_outs: int, maps: int, start: int, end: int) -> None:
    """MMDetection's own conditions: levels beyond the backbone's are made only where its last map is used."""
    last = maps - 1 if end == -1 else end
    used = last - start + 1
    if not 0 <= start <= last < maps or num_outs < used or (last < maps - 1 and num_outs != used):
        key = section.key("num_outs")
        raise ConfigError(
            key,
            f"{key} does not fit the levels",
            f"{key} is {num_outs}, but of {maps} maps those from {start} to {last} are used (start_level, end_level); "
            "give as many, or more where the last map is used.",
        )


def _check_levels(model: Section) -> None:
    """Refuses a dense head whose strides are for another number of maps than the neck puts out."""
    neck = model.values.get("neck")
    count = neck.get("num_outs") if isinstance(neck, Mapping) else None
    for name in ("rpn_head", "bbox_head"):
        head = model.values.get(name)
        if not isinstance(head, Mapping) or count is None:
            continue
        anchors = head.get("anchor_generator")
        within, owner = (".anchor_generator", anchors) if isinstance(anchors, Mapping) else ("", head)
        strides = owner.get("strides")
        if isinstance(strides, list | tuple) and len(strides) != count:
            key = model.key(f"{name}{within}.strides")
            raise ConfigError(
                key,
                f"{key} does not fit the neck",
                f"{key} is {list(strides)}, for {len(strides)} maps, but model.neck.num_outs is {count}.",
            )


def _rpn_head(parent: Section, train: Section, test: Section, divisor: int | None) -> Part:
    name = "rpn_head"
    section = parent.section(name)
    section.type(["RPNHead"])
    section.ignore("init_cfg")
    section.only(num_classes=1)
    made = partial(
        RPNHead,
        in_channels=section.take("in_channels", whole),
        feat_channels=section.take("feat_channels", whole, 256),
        num_convs=section.take("num_convs", whole, 1),
        **_anchor_options(section, train, test, divisor),
    )
    section.done()
    return made


def _anchor_options(section: Section, train: Section, test: Section, divisor: int | None) -> dict[str, Any]:
    """What heads with anchors and deltas have in common."""
    return {
        "anchor_generator": values.anchors(section, divisor),
        "bbox_coder": values.delta_coder(section),
        "reg_decoded_bbox": section.take("reg_decoded_bbox", flag, False),
        "loss_cls": values.class_loss(section, values.SIGMOID),
        "loss_bbox": values.box_loss(section, SMOOTH_L1),
        "train_cfg": values.dense_train(train),
        "test_cfg": values.selection(test),
    }


def _dense_head(parent: Section, name: str, divisor: int | None) -> Part:
    section, test = parent.section("bbox_head"), parent.section("test_cfg")
    kind = section.type([name])
    section.ignore("init_cfg")
    section.only(conv_cfg=None)
    options: dict[str, Any] = {
        "num_classes": section.take("num_classes", whole),
        "in_channels": section.take("in_channels", whole),
        "feat_channels": section.take("feat_channels", whole, 256),
        "stacked_convs": section.take("stacked_convs", whole, 4),
        "norm_cfg": values.norm(section, None if kind == "RetinaHead" else values.GROUP_NORM),
    }
    if kind == "FCOSHead":
        parent.ignore("train_cfg")  # FCOS assigns by its own rule
        options |= _fcos_options(section, test)
        head: Part = FCOSHead
    else:
        train = parent.section("train_cfg")
        if kind == "RetinaHead":
            head, options = RetinaHead, options | _anchor_options(section, train, test, divisor)
        elif kind == "ATSSHead":
            head, options = ATSSHead, options | _atss_options(section, train, test, divisor)
        else:
            head, options = GFLHead, options | _gfl_options(section, train, test, divisor)
    section.done()
    return partial(head, **options)


def _fcos_options(section: Section, test: Section) -> dict[str, Any]:
    section.only(dcn_on_last_conv=False, cls_predictor_cfg=None)
    bias = section.values.pop("conv_bias", "auto")
    options: dict[str, Any] = {
        "strides": section.take("strides", wholes, (4, 8, 16, 32, 64)),
        "center_sampling": section.take("center_sampling", flag, False),
        "center_sample_radius": section.take("center_sample_radius", number, 1.5),
        "norm_on_bbox": section.take("norm_on_bbox", flag, False),
        "centerness_on_reg": section.take("centerness_on_reg", flag, False),
        "conv_bias": None if bias == "auto" else bool(bias),
        "loss_cls": values.class_loss(section, values.FOCAL),
        "loss_bbox": values.box_loss(section, {"type": "IoULoss"}),
        "loss_centerness_weight": _centerness(section),
        "bbox_coder": values.distance_coder(section),
        "test_cfg": values.selection(test),
    }
    if section.has("regress_ranges"):
        options["regress_ranges"] = section.take("regress_ranges", _ranges)
    return options


def _ranges(value: Any) -> tuple[tuple[float, float], ...]:
    """A list of pairs of numbers."""
    return tuple((number(low), number(high)) for low, high in value)


def _centerness(section: Section) -> float:
    fixed = {"use_mask": False, "class_weight": None, "ignore_index": None, "avg_non_ignore": False}
    return values.plain_weight(section, "loss_centerness", values.SIGMOID, use_sigmoid=True, **fixed)


def _atss_options(section: Section, train: Section, test: Section, divisor: int | None) -> dict[str, Any]:
    section.only(reg_decoded_bbox=True)
    return {
        "pred_kernel_size": section.take("pred_kernel_size", whole, 3),
        "anchor_generator": values.anchors(section, divisor),
        "bbox_coder": values.delta_coder(section),
        "loss_cls": values.class_loss(section, values.SIGMOID),
        "loss_bbox": values.box_loss(section, SMOOTH_L1),
        "loss_centerness_weight": _centerness(section),
        "train_cfg": values.dense_train(train),
        "test_cfg": values.selection(test),
    }


def _gfl_options(section: Section, train: Section, test: Section, divisor: int | None) -> dict[str, Any]:
    section.ignore("reg_decoded_bbox")
    return {
        "reg_max": section.take("reg_max", whole, 16),
        "anchor_generator": values.anchors(section, divisor),
        "bbox_coder": values.distance_coder(section),
        "loss_cls": values.class_loss(section, values.SIGMOID),
        "loss_bbox": values.box_loss(section, SMOOTH_L1),
        "loss_dfl_weight": values.plain_weight(
            section, "loss_dfl", {"type": "DistributionFocalLoss", "loss_weight": 0.25}
        ),
        "train_cfg": values.dense_train(train),
        "test_cfg": values.selection(test),
    }
