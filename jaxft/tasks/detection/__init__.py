"""Objects in photos."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic
import tyro
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT, HeightWidth, ThreePositive
from jaxft.tasks.detection.mixtures import CopyPaste, TrainTransform
from jaxft.tasks.detection.transforms import (
    CropKind,
    FilterAnnotations,
    Pad,
    Resize,
    Rounding,
    Share,
    TestTransform,
    Transform,
    WidthHeight,
    crop_problem,
)

if TYPE_CHECKING:
    from jaxft.tasks.task import Task

SIMPLE: dict[str, tuple[str, ...]] = {
    "transforms": ("scales", "scale_draw", "flip", "distort", "crop", "crop_kind"),
    "test_transforms": ("test_scale",),
}
"""The simple fields that a list of steps takes the place of; `rounding` is that of both."""


def _has_the_main_count(counts: tuple[int, ...]) -> tuple[int, ...]:
    if 100 not in counts or len(set(counts)) < len(counts):
        raise ValueError("100 must be among them, at which COCO takes the mean average precision, and none twice")
    return counts


Overlap = Annotated[float, pydantic.Field(gt=0, le=1)]
Counts = Annotated[tuple[pydantic.PositiveInt, ...], pydantic.AfterValidator(_has_the_main_count)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Incremental:
    """New classes for a trained detector without its photos: elastic response distillation of GFL
    (https://arxiv.org/abs/2204.02136). The old detector is the teacher, and the new one starts with its weights."""

    teacher: str | None = None
    """The old detector, as of distillation.teacher; None learns all classes of the data alike."""
    old_classes: int = pydantic.Field(default=0, ge=0)
    """How many of the data's classes it knows: the first ones. The others are learned from the data."""
    old_objects: Literal["drop", "refuse"] = "drop"
    """What becomes of objects of old classes in the training data: nobody sees them, because the teacher alone says
    what old classes look like; or the run does not start."""
    weight: float = pydantic.Field(default=1.0, ge=0)
    """Of what is learned from the teacher; 0 learns new classes alone, and forgets."""
    box_weight: float = pydantic.Field(default=0.25, ge=0)
    """Of the boxes in it."""
    temperature: float = pydantic.Field(default=10.0, gt=0)
    """Of the distributions of the boxes' edges."""
    scale_boxes: bool = False
    """Multiply the teacher's boxes by their stride before those that overlap are thinned, as the paper has it; its
    authors' program does not."""

    def __post_init__(self) -> None:
        if (self.teacher is None) != (self.old_classes == 0):
            raise ValueError(
                f"teacher is {self.teacher!r} and old_classes is {self.old_classes}; give both, or leave both out"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Detection:
    """How a photo with objects becomes arrays of fixed shapes. A scale is the longest side and the shortest side that
    a photo may have after resizing, in pixels and either order; the ratio of the sides stays."""

    kind: Annotated[Literal["detection"], tyro.conf.Suppress] = "detection"
    transforms: Annotated[tuple[TrainTransform, ...], tyro.conf.Suppress] = ()
    """Training: the steps in order, in the place of scales, scale_draw, distort, crop, crop_kind and flip."""
    photo_transforms: Annotated[tuple[Transform, ...], tyro.conf.Suppress] = ()
    """Training: the steps before those of `transforms`, for each photo by itself, also for those that a step of
    `transforms` takes beside it: what is in MMDetection the pipeline of the data set in a `MultiImageMixDataset`."""
    test_transforms: Annotated[tuple[TestTransform, ...], tyro.conf.Suppress] = ()
    """Evaluation and prediction: the steps in order, in the place of test_scale."""
    scales: Annotated[tuple[WidthHeight, ...], pydantic.Field(min_length=1)] = ((1333, 800),)
    """Training: the scales to draw from."""
    scale_draw: Literal["choice", "range"] = "choice"
    """Training: one of the scales, or each side anywhere between the smallest and the largest."""
    test_scale: WidthHeight = (1333, 800)
    """Evaluation and prediction: the scale."""
    rounding: Rounding = "nearest"
    """How a resized side becomes whole pixels: as MMDetection or as torchvision does it."""
    pad_shapes: tuple[HeightWidth, ...] = ()
    """Height and width of the arrays that photos are padded to; each is one compilation. Empty takes what the
    steps need, one for landscape and one for portrait."""
    divisor: int = pydantic.Field(default=32, ge=1)
    """Sides of pad shapes that are not given are multiples of this."""
    incremental: Incremental = Incremental()
    max_objects: int = pydantic.Field(default=100, ge=1)
    """Objects of a photo that training sees; more are dropped, and a report says how many that would be."""
    masks: bool = False
    """Read the objects' masks too, for models that find masks."""
    keep_empty: bool = True
    """Train on photos without objects, too."""
    min_side: int = pydantic.Field(default=0, ge=0)
    """Do not train on photos with a shorter side, pixels."""
    flip: Share = 0.5
    """Training: probability of a horizontal flip."""
    distort: bool = False
    """Training: change brightness, contrast, saturation and hue at random, as SSD does."""
    crop: tuple[float, float] | None = None
    """Training: cut a part out of the resized photo; its numbers mean what crop_kind says."""
    crop_kind: CropKind = "absolute"
    """Width and height in pixels; least and greatest side; width and height as shares; least height and width as
    shares. The names and meanings are MMDetection's."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from the channels scaled to 0..1, in the order that the model sees."""
    std: ThreePositive = (0.229, 0.224, 0.225)
    """Divides the channels after that."""
    bgr: bool = False
    """The model sees B, G, R instead of R, G, B."""
    metric: Literal["coco", "voc"] | None = None
    """Evaluation: COCO's rule (pycocotools) or PASCAL VOC's; None takes that of the data source."""
    metric_kinds: tuple[Literal["bbox", "segm", "proposal", "proposal_fast"], ...] = ()
    """Evaluation by COCO's rule: what is scored: boxes, masks, or the recall of boxes whatever their class, by COCO's
    rule (proposal) or with each object given the box that overlaps it most (proposal_fast). Empty scores boxes, and
    masks where the model finds them."""
    iou_thresholds: tuple[Overlap, ...] = ()
    """Evaluation: the overlaps from which on an object is found; empty for COCO's 0.5, 0.55, ... 0.95, or VOC's 0.5."""
    proposal_nums: Counts = (100, 300, 1000)
    """Evaluation by COCO's rule: so many objects of a photo count, best first: 100 of them for bbox_mAP, the largest
    number for all other precisions, each for a recall of its own."""
    voc_mode: Literal["11points", "area"] = "11points"
    """Evaluation by VOC's rule: precision at eleven recalls (VOC 2007), or the area under its curve (VOC 2010)."""
    show_above: float = pydantic.Field(default=0.3, ge=0, le=1)
    """Drawings show objects with at least this score."""

    @pydantic.model_validator(mode="after")
    def _said_once(self) -> Self:
        """What is listed as steps must not be said by the simple fields, too; and all of it must make sense."""
        defaults = {field.name: field.default for field in dataclasses.fields(type(self))}
        unread = {name: fields for name, fields in SIMPLE.items() if getattr(self, name)}
        if len(unread) == len(SIMPLE):
            unread["transforms"] += ("rounding",)
        for name, fields in unread.items():
            for field in fields:
                if getattr(self, field) != defaults[field]:
                    raise ValueError(f"{field} is given, but {name} lists the steps; leave one of the two out")
        kinds = [type(step) for step in self.test_transforms]
        if Pad in kinds and Resize in kinds[kinds.index(Pad) :]:
            raise ValueError("test_transforms has a Resize after a Pad; a Pad must come after all of them")
        if self.photo_transforms and not self.transforms:
            raise ValueError("photo_transforms are given, but no transforms; list all steps there")
        self._masks_where_wanted()
        if self.crop is not None and (problem := crop_problem(self.crop, self.crop_kind)):
            raise ValueError(f"crop is {self.crop}, but {problem}")
        return self

    def _masks_where_wanted(self) -> None:
        for step in (*self.photo_transforms, *self.transforms):
            if isinstance(step, FilterAnnotations) and step.by_mask and not self.masks:
                raise ValueError("transforms has a FilterAnnotations with by_mask, but masks is not set")
            if isinstance(step, CopyPaste) and step.paste_by_box == self.masks:
                raise ValueError(
                    "transforms has a CopyPaste with paste_by_box, but masks is set, and masks are pasted; leave it out"
                    if self.masks
                    else "transforms has a CopyPaste, but masks is not set; set it, or paste_by_box to paste boxes"
                )

    def implied(self) -> dict[str, Any]:
        """What these fields say of other sections of a configuration: dotted path -> value."""
        incremental = self.incremental
        if incremental.teacher is None:
            return {}
        first = {
            "pretrained.source": incremental.teacher,
            "pretrained.skip": ("@head",),
            "pretrained.transfer_head_rows": True,
            "pretrained.known_classes": incremental.old_classes,
        }
        if not incremental.weight:
            return first
        return first | {
            "distillation.teacher": incremental.teacher,
            "distillation.known_classes": incremental.old_classes,
            "distillation.temperature": incremental.temperature,
            "distillation.weight": incremental.weight,
        }

    def task(self, dtype: str = "float32") -> "Task":
        """The task of these fields; `dtype` is that of the images that the model sees."""
        from jaxft.tasks.detection.task import DetectionTask

        return DetectionTask(self, dtype)
