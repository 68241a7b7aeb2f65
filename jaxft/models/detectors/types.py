"""What goes into detectors and comes out of them, and the groups of plain values that their parts are built from.

The fields carry MMDetection's names where it has a name, so that `converters/mmdet` fills them from a config. What
torchvision's detectors do otherwise is a field, too.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from jax import Array


class Targets(NamedTuple):
    """The objects of a batch of images, in pixels of the padded images; G rows an image, whatever the images hold.

    Attributes:
        boxes: `[N, G, 4]` xyxy.
        labels: `[N, G]` integers 0..C-1; 0 where not valid.
        valid: `[N, G]`; the objects to find.
        ignored: `[N, G]`; crowds, which are neither found nor counted as background. `valid` is False there.
        masks: uint8 `[N, G, H, W / 8]`; the bits of each object's mask, the most significant bit first.
    """

    boxes: Array
    labels: Array
    valid: Array
    ignored: Array
    masks: Array | None = None


class Detections(NamedTuple):
    """What a detector finds, best first; D rows an image, those that are not `valid` hold zeros.

    Attributes:
        boxes: `[N, D, 4]` xyxy, in pixels of the padded image.
        scores: `[N, D]`.
        labels: `[N, D]` int32, 0..C-1.
        valid: `[N, D]` bool.
        masks: `[N, D, M, M]`; the probability of the object inside its box (`jaxft.detection.masks.paste`).
    """

    boxes: Array
    scores: Array
    labels: Array
    valid: Array
    masks: Array | None = None


@dataclass(frozen=True)
class Norm:
    """A normalization layer: batch norm, group norm, or batch norm whose four vectors are constants (torchvision)."""

    type: Literal["BN", "GN", "FrozenBN"] = "BN"
    num_groups: int = 32
    eps: float = 1e-5
    momentum: float = 0.1


@dataclass(frozen=True)
class AnchorGenerator:
    """Boxes of several shapes around every cell of every level.

    Attributes:
        strides: pixels between cells, a level each; None: padded side by map's, rounded down (torchvision).
        ratios: height by width.
        scales: edge lengths in units of the level's base size; or `octave_base_scale` and `scales_per_octave`.
        base_sizes: of each level; its stride where it is None.
        sizes: in place of all of these, the edge lengths of each level in pixels (torchvision).
        scale_major: whether the scale is the faster index (MMDetection's name says the opposite).
        center_offset: of the first anchor's center, in units of the base size.
        round: corners of the base anchors to whole pixels (torchvision).
        divisor: the photo's own padded size is the next multiple of it. Cells outside of that have no anchors in
            training; None: the whole padded image has (torchvision).
    """

    strides: tuple[int, ...] | None
    ratios: tuple[float, ...]
    scales: tuple[float, ...] | None = None
    octave_base_scale: float | None = None
    scales_per_octave: int | None = None
    base_sizes: tuple[float, ...] | None = None
    sizes: tuple[tuple[float, ...], ...] | None = None
    scale_major: bool = True
    center_offset: float = 0.0
    round: bool = False
    divisor: int | None = 32


@dataclass(frozen=True)
class DeltaCoder:
    """Shifts of the center in units of the size, and logarithms of the sizes' ratio (`DeltaXYWHBBoxCoder`).

    `clamp_below` False is torchvision's: sizes are bounded above only.
    """

    target_means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    target_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    clip_border: bool = True
    add_ctr_clamp: bool = False
    ctr_clamp: float = 32.0
    clamp_below: bool = True
    max_ratio: float = 16 / 1000


@dataclass(frozen=True)
class DistanceCoder:
    """Distances from a point to the left, top, right and bottom (`DistancePointBBoxCoder`)."""

    clip_border: bool = True


@dataclass(frozen=True)
class MaxIoUAssigner:
    """Which anchor is responsible for which object, by overlap.

    `low_quality_keeps_best` is torchvision's rule: an anchor that is some object's best is given to the object that it
    overlaps most, which need not be the same.
    """

    pos_iou_thr: float
    neg_iou_thr: float | tuple[float, float]
    min_pos_iou: float = 0.0
    gt_max_assign_all: bool = True
    ignore_iof_thr: float = -1.0
    ignore_wrt_candidates: bool = True
    match_low_quality: bool = True
    low_quality_keeps_best: bool = False


@dataclass(frozen=True)
class ATSSAssigner:
    """Adaptive training sample selection; Zhang et al. 2019, https://arxiv.org/abs/1912.02424."""

    topk: int = 9
    ignore_iof_thr: float = -1.0


@dataclass(frozen=True)
class RandomSampler:
    """A random choice of `num` candidates, at most `pos_fraction` of them positive.

    `counts_at_least_one`: the average divides by max(positives, 1) + max(negatives, 1) an image, as MMDetection does
    in dense heads, and not by their true number (torchvision).
    """

    num: int
    pos_fraction: float
    neg_pos_ub: float = -1.0
    add_gt_as_proposals: bool = True
    counts_at_least_one: bool = True


@dataclass(frozen=True)
class ClassLoss:
    """How classes are learned: cross-entropy over classes and background, or a sigmoid each.

    `quality_focal` is that of GFL: the target is the overlap of the predicted box, `beta` its exponent.
    """

    type: Literal["softmax", "sigmoid", "focal", "quality_focal"] = "softmax"
    loss_weight: float = 1.0
    gamma: float = 2.0
    alpha: float = 0.25
    beta: float = 2.0

    @property
    def use_sigmoid(self) -> bool:
        """Whether there is a logit a class and none for the background."""
        return self.type != "softmax"


@dataclass(frozen=True)
class BoxLoss:
    """How boxes are learned: L1 on their codes, or one minus an overlap of the decoded boxes.

    `mode` is that of `iou` alone: -log(iou), 1 - iou or 1 - iou^2.
    """

    type: Literal["l1", "smooth_l1", "iou", "giou", "diou", "ciou"] = "l1"
    loss_weight: float = 1.0
    beta: float = 1.0
    mode: Literal["log", "linear", "square"] = "log"
    eps: float = 1e-6


@dataclass(frozen=True)
class DenseTrain:
    """`train_cfg` of a dense head; without a sampler all assigned anchors count.

    `average_per_image`: the losses of an image are divided by its own number of positives, and the images' mean is
    taken (torchvision's RetinaNet); otherwise all are divided by the batch's number.
    """

    assigner: MaxIoUAssigner | ATSSAssigner
    sampler: RandomSampler | None = None
    allowed_border: float = -1.0
    pos_weight: float = -1.0
    average_per_image: bool = False


@dataclass(frozen=True)
class RoITrain:
    """`train_cfg.rcnn`, or one stage of it. `soft_masks`: mask targets stay averages, not 0 or 1 (torchvision)."""

    assigner: MaxIoUAssigner
    sampler: RandomSampler
    pos_weight: float = -1.0
    mask_size: int = 28
    soft_masks: bool = False


@dataclass(frozen=True)
class Selection:
    """`test_cfg` of any head, and `rpn_proposal`: which boxes are kept.

    Attributes:
        nms_pre: of each level, the best so many go on; -1 for all. Not for RoI heads.
        score_thr: only scores above it count.
        min_bbox_size: only boxes wider and higher than it count; -1 for all.
        iou_threshold: of non-maximum suppression.
        class_agnostic: whether boxes of different classes (levels, in an RPN) suppress each other.
        max_per_img: rows of the result.
    """

    max_per_img: int
    iou_threshold: float
    nms_pre: int = -1
    score_thr: float = 0.0
    min_bbox_size: float = -1.0
    class_agnostic: bool = False


@dataclass(frozen=True)
class RoIExtractor:
    """RoIAlign from the level that fits a box's size (`SingleRoIExtractor`).

    `canonical_levels`: torchvision's rule, floor(4 + log2(size / 224)), and not floor(log2(size / finest_scale)).
    """

    output_size: int
    featmap_strides: tuple[int, ...]
    finest_scale: float = 56.0
    sampling_ratio: int = 0
    aligned: bool = True
    canonical_levels: bool = False
