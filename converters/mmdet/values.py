"""Groups of plain values in an MMDetection configuration: normalization, anchors, coders, losses, assigners, limits.

Defaults are those of MMDetection 3's classes. What these values mean is told in `jaxft.models.detectors.types`.
"""

from typing import Any, Literal

from converters.mmdet.section import ConfigError, Section, flag, number, numbers, positives, text, whole, wholes
from jaxft.models.detectors.types import (
    AnchorGenerator,
    ATSSAssigner,
    BoxLoss,
    ClassLoss,
    DeltaCoder,
    DenseTrain,
    DistanceCoder,
    MaxIoUAssigner,
    Norm,
    RandomSampler,
    RoIExtractor,
    RoITrain,
    Selection,
)

# Under one device, and in evaluation everywhere, the synchronized ones are plain batch norm.
NORMS: dict[str, Literal["BN", "GN"]] = {"BN": "BN", "BN2d": "BN", "SyncBN": "BN", "MMSyncBN": "BN", "GN": "GN"}
BOX_LOSSES: dict[str, Literal["l1", "smooth_l1", "iou", "giou", "diou", "ciou"]] = {
    "L1Loss": "l1",
    "SmoothL1Loss": "smooth_l1",
    "IoULoss": "iou",
    "GIoULoss": "giou",
    "DIoULoss": "diou",
    "CIoULoss": "ciou",
}
GROUP_NORM = {"type": "GN", "num_groups": 32}
DELTAS = {"type": "DeltaXYWHBBoxCoder"}
SIGMOID = {"type": "CrossEntropyLoss", "use_sigmoid": True}
FOCAL = {"type": "FocalLoss"}
# Why entries of a model are passed over.
RECOMPUTED = "computing twice would only save memory"
UNREAD = "it is of MMDetection 2, and MMDetection 3 does not read it"


def norm(parent: Section, default: dict[str, Any] | None = None) -> Norm | None:
    """`norm_cfg`; `requires_grad` is a matter of training, which `rules` reads."""
    if not parent.has("norm_cfg"):
        given = "norm_cfg" in parent.values
        parent.elsewhere("norm_cfg")
        if given or default is None:
            return None
        parent.values["norm_cfg"] = default
    section = parent.section("norm_cfg")
    section.elsewhere("requires_grad")
    kind = NORMS[section.type(list(NORMS))]
    made = Norm(kind, eps=section.take("eps", number, 1e-5))
    if kind == "GN":
        made = Norm(kind, num_groups=section.take("num_groups", whole), eps=made.eps)
    else:
        made = Norm(kind, eps=made.eps, momentum=section.take("momentum", number, 0.1))
    section.done()
    return made


def anchors(parent: Section, divisor: int | None) -> AnchorGenerator:
    """`anchor_generator`; photos are padded to multiples of `divisor`, or to the whole pad shape where it is None."""
    section = parent.section("anchor_generator")
    section.type(["AnchorGenerator"])
    section.only(centers=None, use_box_type=False)
    made = AnchorGenerator(
        strides=section.take("strides", wholes),
        ratios=section.take("ratios", positives),
        scales=section.take("scales", positives) if section.has("scales") else None,
        octave_base_scale=section.take("octave_base_scale", number) if section.has("octave_base_scale") else None,
        scales_per_octave=section.take("scales_per_octave", whole) if section.has("scales_per_octave") else None,
        base_sizes=section.take("base_sizes", positives) if section.has("base_sizes") else None,
        scale_major=section.take("scale_major", flag, True),
        center_offset=section.take("center_offset", number, 0.0),
        divisor=divisor,
    )
    section.done()
    return made


def delta_coder(parent: Section, default: dict[str, Any] = DELTAS) -> DeltaCoder:
    """`bbox_coder` of boxes as deltas."""
    section = parent.section("bbox_coder", default)
    section.type(["DeltaXYWHBBoxCoder"])
    section.only(use_box_type=False)
    made = DeltaCoder(
        target_means=section.take("target_means", numbers, (0.0,) * 4),
        target_stds=section.take("target_stds", numbers, (1.0,) * 4),
        clip_border=section.take("clip_border", flag, True),
        add_ctr_clamp=section.take("add_ctr_clamp", flag, False),
        ctr_clamp=section.take("ctr_clamp", number, 32.0),
    )
    section.done()
    return made


def distance_coder(parent: Section) -> DistanceCoder:
    """`bbox_coder` of boxes as distances to the edges."""
    section = parent.section("bbox_coder", {"type": "DistancePointBBoxCoder"})
    section.type(["DistancePointBBoxCoder"])
    section.only(use_box_type=False)
    made = DistanceCoder(clip_border=section.take("clip_border", flag, True))
    section.done()
    return made


def class_loss(parent: Section, default: dict[str, Any]) -> ClassLoss:
    """`loss_cls`."""
    section = parent.section("loss_cls", default)
    kind = section.type(["CrossEntropyLoss", "FocalLoss", "QualityFocalLoss"])
    section.only(reduction="mean")
    weight = section.take("loss_weight", number, 1.0)
    if kind == "CrossEntropyLoss":
        section.only(use_mask=False, class_weight=None, ignore_index=None, avg_non_ignore=False)
        made = ClassLoss("sigmoid" if section.take("use_sigmoid", flag, False) else "softmax", weight)
    else:
        section.only(use_sigmoid=True, activated=False)
        if kind == "FocalLoss":
            gamma, alpha = section.take("gamma", number, 2.0), section.take("alpha", number, 0.25)
            made = ClassLoss("focal", weight, gamma=gamma, alpha=alpha)
        else:
            made = ClassLoss("quality_focal", weight, beta=section.take("beta", number, 2.0))
    section.done()
    return made


def box_loss(parent: Section, default: dict[str, Any]) -> BoxLoss:
    """`loss_bbox`."""
    section = parent.section("loss_bbox", default)
    kind = BOX_LOSSES[section.type(list(BOX_LOSSES))]
    section.only(reduction="mean")
    weight = section.take("loss_weight", number, 1.0)
    if kind == "l1":
        made = BoxLoss(kind, weight)
    elif kind == "smooth_l1":
        made = BoxLoss(kind, weight, beta=section.take("beta", number, 1.0))
    else:
        made = BoxLoss(kind, weight, mode=_mode(section, kind), eps=section.take("eps", number, 1e-6))
    section.done()
    return made


def _mode(section: Section, kind: str) -> Literal["log", "linear", "square"]:
    if kind != "iou":
        return "linear"
    mode = section.take("mode", text, "log")
    if section.take("linear", flag, False):
        return "linear"
    modes: dict[str, Literal["log", "linear", "square"]] = {"log": "log", "linear": "linear", "square": "square"}
    if mode not in modes:
        key = section.key("mode")
        raise ConfigError(key, key, f"{key} is {mode!r}; log, linear or square was expected.")
    return modes[mode]


def plain_weight(parent: Section, name: str, default: dict[str, Any], **expected: Any) -> float:
    """`loss_weight` of a loss that has nothing else to choose."""
    section = parent.section(name, default)
    section.type([default["type"]])
    weight = section.take("loss_weight", number, 1.0)
    section.only(reduction="mean", **expected)
    section.done()
    return weight


def assigner(parent: Section) -> MaxIoUAssigner | ATSSAssigner:
    """`assigner`."""
    section = parent.section("assigner")
    kind = section.type(["MaxIoUAssigner", "ATSSAssigner"])
    if section.has("iou_calculator"):
        overlap = section.section("iou_calculator")
        overlap.type(["BboxOverlaps2D"])
        overlap.done()
    section.elsewhere("iou_calculator")
    section.ignore("gpu_assign_thr", because="it says on which device overlaps are computed")
    if kind == "ATSSAssigner":
        section.only(alpha=None)
        topk, iof = section.take("topk", whole), section.take("ignore_iof_thr", number, -1.0)
        section.done()
        return ATSSAssigner(topk, iof)
    section.only(perm_repeat_gt_cfg=None)
    made = MaxIoUAssigner(
        pos_iou_thr=section.take("pos_iou_thr", number),
        neg_iou_thr=section.take("neg_iou_thr", _one_or_two),
        min_pos_iou=section.take("min_pos_iou", number, 0.0),
        gt_max_assign_all=section.take("gt_max_assign_all", flag, True),
        ignore_iof_thr=section.take("ignore_iof_thr", number, -1.0),
        ignore_wrt_candidates=section.take("ignore_wrt_candidates", flag, True),
        match_low_quality=section.take("match_low_quality", flag, True),
    )
    section.done()
    return made


def _one_or_two(value: Any) -> float | tuple[float, float]:
    """A number, or two."""
    if isinstance(value, list | tuple):
        low, high = numbers(value)
        return low, high
    return number(value)


def sampler(parent: Section) -> RandomSampler | None:
    """`sampler`; None where all that is assigned counts."""
    if not parent.has("sampler"):
        parent.elsewhere("sampler")
        return None
    section = parent.section("sampler")
    if section.type(["RandomSampler", "PseudoSampler"]) == "PseudoSampler":
        section.ignore("add_gt_as_proposals", because="a PseudoSampler samples nothing")
        section.done()
        return None
    made = RandomSampler(
        num=section.take("num", whole),
        pos_fraction=section.take("pos_fraction", number),
        neg_pos_ub=section.take("neg_pos_ub", number, -1.0),
        add_gt_as_proposals=section.take("add_gt_as_proposals", flag, True),
    )
    section.done()
    return made


def dense_train(section: Section) -> DenseTrain:
    """`train_cfg` of a dense head."""
    section.ignore("debug", because="MMDetection prints more by it")
    made = DenseTrain(
        assigner(section),
        sampler(section),
        allowed_border=section.take("allowed_border", number, -1.0),
        pos_weight=section.take("pos_weight", number, -1.0),
    )
    section.done()
    return made


def roi_train(section: Section) -> RoITrain:
    """`train_cfg.rcnn`, or one stage of it."""
    section.ignore("debug", because="MMDetection prints more by it")
    how, drawn = assigner(section), sampler(section)
    if not isinstance(how, MaxIoUAssigner) or drawn is None:
        key = section.key("sampler" if drawn is None else "assigner")
        raise ConfigError(key, key, f"{key}: regions of interest need a MaxIoUAssigner and a RandomSampler.")
    made = RoITrain(
        how,
        drawn,
        pos_weight=section.take("pos_weight", number, -1.0),
        mask_size=section.take("mask_size", whole, 28),
    )
    section.done()
    return made


def selection(section: Section) -> Selection:
    """`test_cfg` of a head, or `rpn_proposal`."""
    section.only(mask_thr_binary=0.5)
    section.ignore("nms_post", "max_num", because=UNREAD)
    suppression = section.section("nms")
    suppression.type(["nms"])
    suppression.ignore("split_thr", because="it cuts the suppression in parts, whose result is the same")
    made = Selection(
        max_per_img=section.take("max_per_img", whole),
        iou_threshold=suppression.take("iou_threshold", number),
        nms_pre=section.take("nms_pre", whole, -1),
        score_thr=section.take("score_thr", number, 0.0),
        min_bbox_size=section.take("min_bbox_size", number, -1.0),
        class_agnostic=suppression.take("class_agnostic", flag, False),
    )
    suppression.done()
    section.done()
    return made


def extractor(parent: Section, name: str) -> RoIExtractor:
    """`bbox_roi_extractor` or `mask_roi_extractor`."""
    section = parent.section(name)
    section.type(["SingleRoIExtractor"])
    section.ignore("out_channels", because="a region has the channels of the maps it is cut from")
    section.ignore("init_cfg", because="it has no parameters")
    layer = section.section("roi_layer")
    layer.type(["RoIAlign"])
    layer.only(pool_mode="avg", use_torchvision=False)
    made = RoIExtractor(
        output_size=layer.take("output_size", whole),
        featmap_strides=section.take("featmap_strides", wholes),
        finest_scale=section.take("finest_scale", number, 56.0),
        sampling_ratio=layer.take("sampling_ratio", whole, 0),
        aligned=layer.take("aligned", flag, True),
    )
    layer.done()
    section.done()
    return made
