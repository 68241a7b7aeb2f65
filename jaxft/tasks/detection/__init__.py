"""Objects in photos."""

from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
import tyro
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT, HeightWidth, ThreePositive
from jaxft.tasks.detection.transforms import TestTransform, Transform

if TYPE_CHECKING:
    from jaxft.tasks.task import Task


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Detection:
    """How a photo with objects becomes arrays of fixed shapes. A scale is the longest side and the shortest side that
    a photo may have after resizing, in pixels and either order; the ratio of the sides stays."""

    kind: Annotated[Literal["detection"], tyro.conf.Suppress] = "detection"
    transforms: Annotated[tuple[Transform, ...], tyro.conf.Suppress] = ()
    """Training: the steps in order, in the place of scales, scale_draw, distort, crop, crop_kind and flip."""
    test_transforms: Annotated[tuple[TestTransform, ...], tyro.conf.Suppress] = ()
    """Evaluation and prediction: the steps in order, in the place of test_scale."""
    scales: tuple[HeightWidth, ...] = ((1333, 800),)
    """Training: the scales to draw from."""
    scale_draw: Literal["choice", "range"] = "choice"
    """Training: one of the scales, or each side anywhere between the smallest and the largest."""
    test_scale: HeightWidth = (1333, 800)
    """Evaluation and prediction: the scale."""
    rounding: Literal["nearest", "down"] = "nearest"
    """How a resized side becomes whole pixels: as MMDetection or as torchvision does it."""
    pad_shapes: tuple[HeightWidth, ...] = ()
    """Height and width of the arrays that photos are padded to; each is one compilation. Empty takes what the scales
    and the crop need, one for landscape and one for portrait."""
    divisor: int = pydantic.Field(default=32, ge=1)
    """Sides of pad shapes that are not given are multiples of this."""
    max_objects: int = pydantic.Field(default=100, ge=1)
    """Objects of a photo that training sees; more are dropped, and a report says how many that would be."""
    masks: bool = False
    """Read the objects' masks too, for models that find masks."""
    keep_empty: bool = True
    """Train on photos without objects, too."""
    min_side: int = pydantic.Field(default=0, ge=0)
    """Do not train on photos with a shorter side, pixels."""
    flip: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Training: probability of a horizontal flip."""
    distort: bool = False
    """Training: change brightness, contrast, saturation and hue at random, as SSD does."""
    crop: tuple[float, float] | None = None
    """Training: cut a part out of the resized photo; its numbers mean what crop_kind says."""
    crop_kind: Literal["absolute", "absolute_range", "relative", "relative_range"] = "absolute"
    """Width and height in pixels; least and greatest side; width and height as shares; least height and width as
    shares. The names and meanings are MMDetection's."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from the channels scaled to 0..1, in the order that the model sees."""
    std: ThreePositive = (0.229, 0.224, 0.225)
    """Divides the channels after that."""
    bgr: bool = False
    """The model sees B, G, R instead of R, G, B."""
    show_above: float = pydantic.Field(default=0.3, ge=0, le=1)
    """Drawings show objects with at least this score."""

    def task(self, dtype: str = "float32") -> "Task":
        """The task of these fields; `dtype` is that of the images that the model sees."""
        from jaxft.tasks.detection.task import DetectionTask

        return DetectionTask(self, dtype)
