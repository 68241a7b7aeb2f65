"""`model.roi_head` of an MMDetection configuration: what looks at the proposals again."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from flax import nnx

from converters.mmdet import values
from converters.mmdet.section import ConfigError, Part, Section, flag, number, numbers, standardized, whole
from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.cascade_roi_head import CascadeRoIHead
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from jaxft.models.detectors.roi.standard_roi_head import StandardRoIHead

BOX_CODER = {"type": "DeltaXYWHBBoxCoder", "target_stds": (0.1, 0.1, 0.2, 0.2)}
# The layers that a name stands for; ConvFCBBoxHead says it itself.
LAYERS = {
    "Shared2FCBBoxHead": {"num_shared_fcs": 2},
    "Shared4Conv1FCBBoxHead": {"num_shared_convs": 4, "num_shared_fcs": 1},
    "ConvFCBBoxHead": {},
}
COUNTS = ("num_shared_convs", "num_shared_fcs", "num_cls_convs", "num_cls_fcs", "num_reg_convs", "num_reg_fcs")


def roi_head(section: Section, train: Section, test: Section, *, cascade: bool) -> Part:
    """`StandardRoIHead` or `CascadeRoIHead`; `train` and `test` are the detector's `train_cfg` and `test_cfg`."""
    section.type(["CascadeRoIHead" if cascade else "StandardRoIHead"])
    section.elsewhere("init_cfg")  # `initial` reads it
    section.only(shared_head=None)
    stages = section.take("num_stages", whole) if cascade else 1
    options: dict[str, Any] = {"test_cfg": values.selection(test.section("rcnn"))}
    trains = tuple(values.roi_train(part) for part in train.sections("rcnn", stages))
    if cascade:
        options |= {"stage_loss_weights": section.take("stage_loss_weights", numbers), "train_cfg": trains}
    else:
        options["train_cfg"] = trains[0]
    options["bbox_roi_extractor"] = values.extractor(section, "bbox_roi_extractor")
    boxes, masks = [_bbox_head(part) for part in section.sections("bbox_head", stages)], None
    if section.has("mask_head"):
        masks = [_mask_head(part) for part in section.sections("mask_head", stages)]
        if section.has("mask_roi_extractor"):
            options["mask_roi_extractor"] = values.extractor(section, "mask_roi_extractor")
    section.ignore("mask_head", "mask_roi_extractor", because="there is no mask head")
    section.done()
    return partial(_cascade if cascade else _standard, boxes, masks, options)


def _standard(
    boxes: Sequence[Part], masks: Sequence[Part] | None, options: dict[str, Any], *, rngs: nnx.Rngs
) -> StandardRoIHead:
    mask_head = None if masks is None else masks[0](rngs=rngs)
    return StandardRoIHead(boxes[0](rngs=rngs), mask_head=mask_head, rngs=rngs, **options)


def _cascade(
    boxes: Sequence[Part], masks: Sequence[Part] | None, options: dict[str, Any], *, rngs: nnx.Rngs
) -> CascadeRoIHead:
    mask_heads = None if masks is None else [mask(rngs=rngs) for mask in masks]
    return CascadeRoIHead([box(rngs=rngs) for box in boxes], mask_head=mask_heads, rngs=rngs, **options)


def _bbox_head(section: Section) -> Part:
    kind = section.type(list(LAYERS))
    section.elsewhere("init_cfg")  # `initial` reads it
    section.only(
        with_avg_pool=False,
        with_cls=True,
        with_reg=True,
        predict_box_type="hbox",
        reg_predictor_cfg={"type": "Linear"},
        cls_predictor_cfg={"type": "Linear"},
    )
    even = section.standardizes()
    layers: dict[str, Any] = {name: section.take(name, whole, LAYERS[kind].get(name, 0)) for name in COUNTS}
    loss = values.class_loss(section, {"type": "CrossEntropyLoss"})
    if loss.use_sigmoid:
        key = section.key("loss_cls")
        raise ConfigError(key, f"{key} with sigmoid", f"{key}: regions of interest have a cross-entropy over classes.")
    made = partial(
        ConvFCBBoxHead,
        in_channels=section.take("in_channels", whole, 256),
        num_classes=section.take("num_classes", whole, 80),
        roi_feat_size=section.take("roi_feat_size", whole, 7),
        conv_out_channels=section.take("conv_out_channels", whole, 256),
        fc_out_channels=section.take("fc_out_channels", whole, 1024),
        norm_cfg=values.norm(section),
        bbox_coder=values.delta_coder(section, BOX_CODER),
        reg_class_agnostic=section.take("reg_class_agnostic", flag, False),
        reg_decoded_bbox=section.take("reg_decoded_bbox", flag, False),
        loss_cls=loss,
        loss_bbox=values.box_loss(section, {"type": "SmoothL1Loss"}),
        **layers,
    )
    section.done()
    return standardized(made) if even else made


def _mask_head(section: Section) -> Part:
    section.type(["FCNMaskHead"])
    section.elsewhere("init_cfg")  # `initial` reads it
    section.ignore("roi_feat_size", because="the mask head is convolutional, and takes the size that the regions have")
    section.only(predictor_cfg={"type": "Conv"})
    even = section.standardizes()
    upsample = section.section("upsample_cfg", {"type": "deconv", "scale_factor": 2})
    if upsample.has("type"):
        upsample.type(["deconv"])
        upsample.only(scale_factor=2)
        grow: str | None = "deconv"
    else:
        upsample.ignore("type", "scale_factor", because="nothing is upsampled")
        grow = None
    upsample.done()
    loss = section.section("loss_mask", {"type": "CrossEntropyLoss", "use_mask": True})
    loss.type(["CrossEntropyLoss"])
    loss.only(use_mask=True, use_sigmoid=False, reduction="mean", class_weight=None, ignore_index=None)
    made = partial(
        FCNMaskHead,
        in_channels=section.take("in_channels", whole, 256),
        num_classes=section.take("num_classes", whole, 80),
        num_convs=section.take("num_convs", whole, 4),
        conv_kernel_size=section.take("conv_kernel_size", whole, 3),
        conv_out_channels=section.take("conv_out_channels", whole, 256),
        class_agnostic=section.take("class_agnostic", flag, False),
        upsample=grow,
        norm_cfg=values.norm(section),
        loss_weight=loss.take("loss_weight", number, 1.0),
    )
    loss.done()
    section.done()
    return standardized(made, below="convs") if even else made
