"""The steps from a photo and its objects to arrays, as fields: named, and with arguments, as in MMDetection 3.3.

What they do is in `jaxft.tasks.detection.steps`, how large a photo they can give in `jaxft.tasks.detection.bounds`,
steps that take further photos in `jaxft.tasks.detection.mixtures`.
Sizes are width and height, in this order, as MMDetection has them; colors are R, G, B.
"""

from typing import Annotated, Literal, Self

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT, Bounds

Positive = Annotated[int, pydantic.Field(ge=1)]
WidthHeight = tuple[Positive, Positive]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Level = Annotated[float, pydantic.Field(ge=0, le=255)]


def _both(value: object) -> object:
    return (value, value) if isinstance(value, int | float) else value


Scale = Annotated[WidthHeight, pydantic.BeforeValidator(_both)]
Factors = Annotated[tuple[pydantic.PositiveFloat, pydantic.PositiveFloat], pydantic.BeforeValidator(_both)]
Direction = Literal["horizontal", "vertical", "diagonal"]
Rounding = Literal["nearest", "down"]
CropKind = Literal["absolute", "absolute_range", "relative", "relative_range"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Resize:
    """Resize to a size, or by a factor."""

    type: Literal["Resize"] = "Resize"
    scale: Scale | None = None
    """Width and height; with `keep_ratio` the longest and the shortest side, either order. One number is both."""
    scale_factor: Factors | None = None
    """Where there is no `scale`: what width and height are multiplied with. One number is both."""
    keep_ratio: bool = False
    """As large as `scale` allows with the ratio of the sides as it is."""
    clip_object_border: bool = True
    """Cut boxes off at the border."""
    interpolation: Interpolation = "bilinear"
    """OpenCV's way to find new pixels; masks always take the nearest."""
    rounding: Rounding = "nearest"
    """How a side becomes whole pixels with `keep_ratio`: as MMDetection or, down, as torchvision does it."""

    @pydantic.model_validator(mode="after")
    def _has_size(self) -> Self:
        if self.scale is None and self.scale_factor is None:
            raise ValueError("Resize needs scale or scale_factor")
        if self.scale is not None and self.scale_factor is not None:
            raise ValueError("Resize takes scale or scale_factor, and both are given")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomResize:
    """`Resize` to a scale between two, or to one scale times a random ratio."""

    type: Literal["RandomResize"] = "RandomResize"
    scale: WidthHeight | tuple[WidthHeight, WidthHeight]
    """Two scales, between which each number is drawn by itself; or one, where there is a `ratio_range`."""
    ratio_range: Bounds | None = None
    """The least and the greatest ratio."""
    keep_ratio: bool = False
    clip_object_border: bool = True
    interpolation: Interpolation = "bilinear"
    rounding: Rounding = "nearest"

    @pydantic.model_validator(mode="after")
    def _has_range(self) -> Self:
        if isinstance(self.scale[0], tuple) == (self.ratio_range is not None):
            raise ValueError("RandomResize needs two scales, or one scale and a ratio_range")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomChoiceResize:
    """`Resize` to one of several scales."""

    type: Literal["RandomChoiceResize"] = "RandomChoiceResize"
    scales: Annotated[tuple[WidthHeight, ...], pydantic.Field(min_length=1)]
    keep_ratio: bool = False
    clip_object_border: bool = True
    interpolation: Interpolation = "bilinear"
    rounding: Rounding = "nearest"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomFlip:
    """Flip in one of the directions, or not; diagonal is both at once."""

    type: Literal["RandomFlip"] = "RandomFlip"
    prob: Share | tuple[Share, ...]
    """The probability of each direction, or of any, which they share evenly."""
    direction: Direction | tuple[Direction, ...] = "horizontal"

    @pydantic.model_validator(mode="after")
    def _one_each(self) -> Self:
        if not self.direction:
            raise ValueError("RandomFlip needs a direction")
        if isinstance(self.prob, tuple):
            if not isinstance(self.direction, tuple) or len(self.prob) != len(self.direction):
                raise ValueError("RandomFlip needs as many directions as probabilities")
            if sum(self.prob) > 1 + 1e-9:
                raise ValueError("the probabilities of RandomFlip add up to more than 1")
        return self


def crop_problem(size: tuple[float, float], kind: CropKind) -> str | None:
    """Why two numbers cannot be the size of a crop of a kind."""
    if min(size) <= 0:
        return "both numbers must be positive"
    if kind.startswith("relative") and max(size) > 1:
        return "relative sizes must be at most 1"
    if kind.startswith("absolute") and (size[0] % 1 or size[1] % 1):
        return "absolute sizes must be whole pixels"
    if kind == "absolute_range" and size[0] > size[1]:
        return "the first number of a range must not be larger than the second"
    return None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomCrop:
    """Cut a part out; objects wholly outside it go."""

    type: Literal["RandomCrop"] = "RandomCrop"
    crop_size: tuple[float, float]
    """Its meaning is that of `crop_type`."""
    crop_type: CropKind = "absolute"
    """Width and height in pixels; least and greatest side; width and height as shares; least height and width as
    shares."""
    allow_negative_crop: bool = False
    """Whether a crop without any object will do; otherwise another photo takes its place."""
    recompute_bbox: bool = False
    """Boxes anew from what is left of the masks, where there are masks."""
    bbox_clip_border: bool = True
    """Cut boxes off at the border."""

    @pydantic.model_validator(mode="after")
    def _fitting(self) -> Self:
        if problem := crop_problem(self.crop_size, self.crop_type):
            raise ValueError(f"crop_size is {self.crop_size}, but {problem}")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MinIoURandomCrop:
    """SSD's crop: keep the objects whose center is inside a part that has at least some overlap with every object."""

    type: Literal["MinIoURandomCrop"] = "MinIoURandomCrop"
    min_ious: tuple[Share, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """The overlaps to draw from, besides 0 and no crop at all."""
    min_crop_size: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.3
    """The least share of either side."""
    bbox_clip_border: bool = True
    """Cut boxes off at the border."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Expand:
    """Put the photo somewhere into a larger one of one color."""

    type: Literal["Expand"] = "Expand"
    mean: tuple[Level, Level, Level] = (0, 0, 0)
    """The color: R, G, B, or B, G, R where `to_rgb` is not set."""
    to_rgb: bool = True
    ratio_range: tuple[Annotated[float, pydantic.Field(ge=1)], Annotated[float, pydantic.Field(ge=1)]] = (1, 4)
    """The least and the greatest factor of both sides."""
    prob: Share = 0.5

    @pydantic.model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.ratio_range[0] > self.ratio_range[1]:
            raise ValueError("the first number of ratio_range must not be larger than the second")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pad:
    """Add to the right and below. The model takes what was added for a part of the photo, as in MMDetection."""

    type: Literal["Pad"] = "Pad"
    size: WidthHeight | None = None
    """The least width and height."""
    size_divisor: Positive | None = None
    """Both sides become multiples of this."""
    pad_to_square: bool = False
    """Both sides become the longer one; `size_divisor` comes after that."""
    pad_val: Level | tuple[Level, Level, Level] = 0
    """The color that is added, 0..255: one number, or R, G, B. Masks get zeros."""

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = (self.size is not None) + (self.size_divisor is not None or self.pad_to_square)
        if ways != 1:
            raise ValueError("Pad needs either size, or size_divisor or pad_to_square")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PhotoMetricDistortion:
    """SSD's changes of color, each with probability one half; pixels stay whole numbers from 0 to 255."""

    type: Literal["PhotoMetricDistortion"] = "PhotoMetricDistortion"
    brightness_delta: pydantic.NonNegativeFloat = 32
    """At most this is added or subtracted, of 255."""
    contrast_range: tuple[pydantic.NonNegativeFloat, pydantic.NonNegativeFloat] = (0.5, 1.5)
    saturation_range: tuple[pydantic.NonNegativeFloat, pydantic.NonNegativeFloat] = (0.5, 1.5)
    hue_delta: Annotated[float, pydantic.Field(ge=0, le=360)] = 18
    """At most this is added or subtracted, degrees."""

    @pydantic.model_validator(mode="after")
    def _ascending(self) -> Self:
        for name in ("contrast_range", "saturation_range"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"the first number of {name} must not be larger than the second")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class YOLOXHSVRandomAug:
    """YOLOX's changes of color: a number added to hue, saturation and value each, with probability one half."""

    type: Literal["YOLOXHSVRandomAug"] = "YOLOXHSVRandomAug"
    hue_delta: Annotated[int, pydantic.Field(ge=0, le=180)] = 5
    """At most this is added or subtracted, of the 180 that are all hues."""
    saturation_delta: Annotated[int, pydantic.Field(ge=0, le=255)] = 30
    """At most this is added or subtracted, of 255."""
    value_delta: Annotated[int, pydantic.Field(ge=0, le=255)] = 30
    """At most this is added or subtracted, of 255."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomAffine:
    """Scale, rotate, shear and shift; boxes become those around what becomes of them."""

    type: Literal["RandomAffine"] = "RandomAffine"
    max_rotate_degree: Annotated[float, pydantic.Field(ge=0, le=180)] = 10
    """At most this to either side."""
    max_translate_ratio: Share = 0.1
    """At most this share of the width and of the height, in either direction."""
    scaling_ratio_range: Bounds = (0.5, 1.5)
    """The least and the greatest factor of both sides."""
    max_shear_degree: Annotated[float, pydantic.Field(ge=0, lt=90)] = 2
    """At most this in either direction, along each side by itself."""
    border: tuple[int, int] = (0, 0)
    """Pixels that are added left and right, and above and below; negative ones are taken away."""
    border_val: tuple[Level, Level, Level] = (114, 114, 114)
    """The color of what is not in the photo: R, G, B. Masks get zeros."""
    bbox_clip_border: bool = True
    """Cut boxes off at the border."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FilterAnnotations:
    """Drop objects that have become too small."""

    type: Literal["FilterAnnotations"] = "FilterAnnotations"
    min_gt_bbox_wh: tuple[pydantic.NonNegativeFloat, pydantic.NonNegativeFloat] = (1, 1)
    """A box must be wider and higher than this, pixels."""
    min_gt_mask_area: pydantic.NonNegativeInt = 1
    """A mask must have at least so many pixels."""
    by_box: bool = True
    by_mask: bool = False
    keep_empty: bool = True
    """MMDetection's word and its meaning: where all objects of a photo are dropped, another photo takes its place;
    otherwise it stays, without objects."""

    @pydantic.model_validator(mode="after")
    def _by_something(self) -> Self:
        if not (self.by_box or self.by_mask):
            raise ValueError("FilterAnnotations needs by_box or by_mask")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomChoice:
    """One of several lists of steps."""

    type: Literal["RandomChoice"] = "RandomChoice"
    transforms: Annotated[tuple[tuple["Transform", ...], ...], pydantic.Field(min_length=1)]
    prob: tuple[Share, ...] | None = None
    """The probability of each; None for equal ones."""

    @pydantic.model_validator(mode="after")
    def _one_each(self) -> Self:
        if self.prob is not None and (len(self.prob) != len(self.transforms) or abs(sum(self.prob) - 1) > 1e-6):
            raise ValueError("RandomChoice needs a probability for each list, which add up to 1")
        return self


OfOnePhoto = (
    Resize
    | RandomResize
    | RandomChoiceResize
    | RandomFlip
    | RandomCrop
    | MinIoURandomCrop
    | Expand
    | Pad
    | PhotoMetricDistortion
    | YOLOXHSVRandomAug
    | RandomAffine
    | FilterAnnotations
    | RandomChoice
)
Transform = Annotated[OfOnePhoto, pydantic.Field(discriminator="type")]
TestTransform = Annotated[Resize | Pad, pydantic.Field(discriminator="type")]
"""Steps from which the way back to the stored photo is known."""

pydantic.dataclasses.rebuild_dataclass(RandomChoice)  # type: ignore[arg-type]
