"""The dense heads of an MMDetection configuration: `model.rpn_head` and `model.bbox_head`."""

from functools import partial
from typing import Any

from converters.mmdet import values
from converters.mmdet.section import Part, Section, flag, number, whole, wholes
from jaxft.models.detectors.dense.atss_head import ATSSHead
from jaxft.models.detectors.dense.fcos_head import FCOSHead
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.dense.rpn_head import RPNHead

SMOOTH_L1 = {"type": "SmoothL1Loss", "beta": 1 / 9}


def rpn_head(parent: Section, train: Section, test: Section, divisor: int | None) -> Part:
    """The constructor of `parent.rpn_head`; `divisor` is what the sides of padded photos are multiples of."""
    name = "rpn_head"
    section = parent.section(name)
    section.type(["RPNHead"])
    section.elsewhere("init_cfg")  # `initial` reads it
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


def dense_head(parent: Section, name: str, divisor: int | None) -> Part:
    """The constructor of `parent.bbox_head`, a dense head of that name; `divisor` as of `rpn_head`."""
    section, test = parent.section("bbox_head"), parent.section("test_cfg")
    kind = section.type([name])
    section.elsewhere("init_cfg")  # `initial` reads it
    section.only(conv_cfg=None)
    options: dict[str, Any] = {
        "num_classes": section.take("num_classes", whole),
        "in_channels": section.take("in_channels", whole),
        "feat_channels": section.take("feat_channels", whole, 256),
        "stacked_convs": section.take("stacked_convs", whole, 4),
        "norm_cfg": values.norm(section, None if kind == "RetinaHead" else values.GROUP_NORM),
    }
    if kind == "FCOSHead":
        parent.ignore("train_cfg", because="FCOS assigns by a rule of its own")
        options |= _fcos_options(section, test, divisor)
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


def _fcos_options(section: Section, test: Section, divisor: int | None) -> dict[str, Any]:
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
        "divisor": divisor,
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
    section.ignore("reg_decoded_bbox", because="GFL decodes boxes for its loss whatever is said")
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
