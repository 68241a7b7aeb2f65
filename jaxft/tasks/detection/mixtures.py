"""The steps that put several photos together, as fields: named, and with arguments, as in MMDetection 3.3.

What they do is in `jaxft.tasks.detection.mixing`. The other photos are drawn from the whole split; each has gone
through `Detection.photo_transforms` before.
"""

from typing import Annotated, Literal

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT, Bounds, ascending
from jaxft.tasks.detection.transforms import Level, OfOnePhoto, Share, WidthHeight

_Center = Annotated[float, pydantic.Field(ge=0, le=2)]
Center = Annotated[tuple[_Center, _Center], pydantic.AfterValidator(ascending)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mosaic:
    """Four photos around a point, in a photo twice as wide and high as each of them (YOLOv4, arXiv 2004.10934): this
    one upper left, then three others."""

    type: Literal["Mosaic"] = "Mosaic"
    img_scale: WidthHeight = (640, 640)
    """Width and height that each photo is resized to fit into; the mosaic has twice as much."""
    center_ratio_range: Center = (0.5, 1.5)
    """Where the point lies, in widths and heights of `img_scale`: between these two, at most 2."""
    bbox_clip_border: bool = True
    """Cut boxes off at the border."""
    pad_val: Level = 114
    """The level of all colors where there is no photo. Masks get zeros."""
    prob: Share = 1
    """The probability of a mosaic; otherwise the photo stays as it is."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MixUp:
    """The mean of the photo and another one, with the objects of both, in the size of the photo (YOLOX, arXiv
    2107.08430)."""

    type: Literal["MixUp"] = "MixUp"
    img_scale: WidthHeight = (640, 640)
    """Width and height that the other photo is resized to fit into, before the factor of `ratio_range`."""
    ratio_range: Bounds = (0.5, 1.5)
    """The least and the greatest factor of the other photo's sides."""
    flip_ratio: Share = 0.5
    """The probability that the other photo is not flipped: MMDetection flips where what it draws is above this."""
    pad_val: Level = 114
    """The level of all colors beside the other photo. Masks get zeros."""
    max_iters: pydantic.PositiveInt = 15
    """So many photos are drawn at most until one has an object; if none has, nothing is mixed."""
    bbox_clip_border: bool = True
    """Cut boxes off at the border."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CopyPaste:
    """Objects of another photo of the same size, pasted at the same place (arXiv 2012.07177); those behind them lose
    the part that is covered, and their boxes become those of what is left."""

    type: Literal["CopyPaste"] = "CopyPaste"
    max_num_pasted: pydantic.PositiveInt = 100
    """Fewer than this are pasted, and at most all: any number is as likely."""
    bbox_occluded_thr: pydantic.NonNegativeFloat = 10
    """A covered object stays where no edge of its box moved by more than this, pixels, ..."""
    mask_occluded_thr: pydantic.NonNegativeFloat = 300
    """... or where more than so many of its pixels are left."""
    selected: bool = True
    """Paste some objects, drawn at random; otherwise all."""
    paste_by_box: bool = False
    """Where no masks are read: take boxes, to whole pixels, for masks."""


Mixture = Mosaic | MixUp | CopyPaste
TrainTransform = Annotated[OfOnePhoto | Mosaic | MixUp | CopyPaste, pydantic.Field(discriminator="type")]
"""A step of training: of one photo, or of several."""
