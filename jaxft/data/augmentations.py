"""Random changes of training images after the crop: flip, rotation, colors, blur, erasing, and chains of them.

Each takes uint8 `[H, W, 3]` and a generator, the source of all its random numbers, and gives the same shape and type.
The distributions, the order of the draws, and the pixels are those of torchvision 0.29 for pictures of Pillow; `blur`
and `RandomErasing` say where they differ. What draws is apart from what is done with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import PIL.Image
from PIL import ImageEnhance

from jaxft.data.dataset import Augmentation
from jaxft.data.operations import BLACK, Drawn, Warp, apply, rotate
from jaxft.data.photo import ImageData

Step = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""From uint8 `[H, W, 3]` and chance to the same shape and type."""
Adjustment = Callable[[PIL.Image.Image, float], PIL.Image.Image]
"""From a picture, mode RGB, and a factor or shift to a picture of the same size."""
ErasingFill = Literal["mean", "noise"]
ThreeNumbers = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A random crop, and what comes after it.

    Attributes:
        crop: from an image of any kind and size to pixels.
        steps: done in this order, with the same generator.
    """

    crop: Augmentation
    steps: tuple[Step, ...]

    def __call__(self, image: ImageData, rng: np.random.Generator) -> np.ndarray:
        """One image as training sees it: uint8 `[H, W, 3]` of the crop's size.

        Raises:
            UserError: the image cannot be read.
        """
        pixels = self.crop(image, rng)
        for step in self.steps:
            pixels = step(pixels, rng)
        return pixels


@dataclass(frozen=True, kw_only=True)
class VerticalFlip:
    """Turns upside down.

    Attributes:
        probability: 0..1.
    """

    probability: float = 0.5

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.flip(pixels, 0) if rng.random() < self.probability else pixels


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Turns around the center by an angle from -degrees to +degrees; the size stays.

    Attributes:
        degrees: 0..180.
        warp: the filter, and the color of the corners.
    """

    degrees: float
    warp: Warp = BLACK

    def draw(self, rng: np.random.Generator) -> list[Drawn]:
        return [(rotate, rng.uniform(-self.degrees, self.degrees))]

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return apply(pixels, self.draw(rng), self.warp)


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Changes brightness, contrast, saturation and hue, in random order; 0 leaves one alone.

    Attributes:
        brightness: the factor is drawn from `max(0, 1 - brightness)` to `1 + brightness`.
        contrast: its factor likewise.
        saturation: its factor likewise.
        hue: the shift is drawn from -hue to +hue; 0.5 is half the circle of colors and the most there is.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def draw(self, rng: np.random.Generator) -> list[tuple[Adjustment, float]]:
        """What is done, in its order, with its factor or shift."""
        order = rng.permutation(4)
        widths = {brightness: self.brightness, contrast: self.contrast, saturation: self.saturation}
        drawn: list[tuple[Adjustment, float] | None] = [
            (adjust, rng.uniform(max(0.0, 1 - width), 1 + width)) if width else None for adjust, width in widths.items()
        ]
        drawn.append((hue, rng.uniform(-self.hue, self.hue)) if self.hue else None)
        return [found for place in order if (found := drawn[place]) is not None]

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picture = PIL.Image.fromarray(pixels)
        for adjust, value in self.draw(rng):
            picture = adjust(picture, value)
        return np.asarray(picture)


def brightness(picture: PIL.Image.Image, factor: float) -> PIL.Image.Image:
    """Times a factor: 0 is black, 1 the picture."""
    return ImageEnhance.Brightness(picture).enhance(factor)


def contrast(picture: PIL.Image.Image, factor: float) -> PIL.Image.Image:
    """The distance from the picture's mean gray times a factor: 0 is one gray everywhere, 1 the picture."""
    return ImageEnhance.Contrast(picture).enhance(factor)


def saturation(picture: PIL.Image.Image, factor: float) -> PIL.Image.Image:
    """The distance from gray times a factor: 0 is gray, 1 the picture."""
    return ImageEnhance.Color(picture).enhance(factor)


def hue(picture: PIL.Image.Image, shift: float) -> PIL.Image.Image:
    """Shifts the hues by a part of the circle of colors, -0.5..0.5: by `int(shift * 255)` of its 256 steps."""
    hues, *rest = picture.convert("HSV").split()
    steps = int(shift * 255)
    turned = hues.point([(value + steps) % 256 for value in range(256)])
    return PIL.Image.merge("HSV", (turned, *rest)).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class Grayscale:
    """Takes the color away.

    Attributes:
        probability: 0..1.
    """

    probability: float = 0.1

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return grayscale(pixels) if rng.random() < self.probability else pixels


def grayscale(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[H, W, 3]` -> the same shape, with three equal channels."""
    gray = PIL.Image.fromarray(pixels).convert("L")
    return np.asarray(PIL.Image.merge("RGB", (gray, gray, gray)))


@dataclass(frozen=True, kw_only=True)
class GaussianBlur:
    """Smooths, with a standard deviation that is drawn anew each time.

    Attributes:
        probability: 0..1.
        kernel: side of the window, odd, at most twice the side of the image less 1.
        sigma: the smallest and the largest standard deviation, pixels.
    """

    probability: float = 0.5
    kernel: int = 13
    sigma: tuple[float, float] = (0.1, 2.0)

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return blur(pixels, self.kernel, rng.uniform(*self.sigma)) if rng.random() < self.probability else pixels


def blur(pixels: np.ndarray, kernel: int, sigma: float) -> np.ndarray:
    """The mean weighted by a Gaussian bell, with the image mirrored beyond its edges.

    torchvision adds the same products in float32, in another order: where a mean lies at the middle of two levels, the
    result may be one level of 255 off.

    Args:
        pixels: uint8 `[H, W, 3]`.
        kernel: side of the window, odd, at most twice the side of the image less 1.
        sigma: standard deviation, pixels.

    Returns:
        uint8 `[H, W, 3]`.
    """
    places = np.arange(kernel, dtype=np.float32) - np.float32(kernel // 2)
    bell = np.exp(np.float32(-0.5) * (places / np.float32(sigma)) ** 2)
    bell /= bell.sum()
    smooth = cv2.sepFilter2D(pixels.astype(np.float32), cv2.CV_32F, bell, bell, borderType=cv2.BORDER_REFLECT_101)
    return np.rint(smooth).astype(np.uint8)


class Rectangle(NamedTuple):
    """Pixels of an image, and what takes their place.

    Attributes:
        noise: float `[height, width, 3]`, standard normal; None for the mean.
    """

    top: int
    left: int
    height: int
    width: int
    noise: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """Erases a rectangle, as torchvision's `RandomErasing` (Zhong et al. 2017, arXiv 1708.04896).

    torchvision does it after the normalization, with 0 or standard normal noise. Pixels are bytes here, so the same is
    meant and rounded to a level of 255: `mean` is the normalization's mean, which becomes 0, and `noise` is
    `mean + std * normal`, cut off at 0 and 255.

    Attributes:
        probability: 0..1.
        scale: smallest and largest area of the rectangle, as a share of the image.
        ratio: smallest and largest height / width of the rectangle.
        fill: what the rectangle is filled with.
        mean: of the normalization, for pixels in 0..1.
        std: of the normalization, for pixels in 0..1.
    """

    probability: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: ErasingFill = "mean"
    mean: ThreeNumbers
    std: ThreeNumbers

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Rectangle | None:
        """Where to erase in an image of this size; None where the chance says no, or ten rectangles did not fit."""
        if rng.random() >= self.probability:
            return None
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if tall < height and wide < width:
                noise = rng.standard_normal((tall, wide, 3)) if self.fill == "noise" else None
                top = int(rng.integers(0, height - tall, endpoint=True))
                left = int(rng.integers(0, width - wide, endpoint=True))
                return Rectangle(top, left, tall, wide, noise)
        return None

    def erase(self, pixels: np.ndarray, where: Rectangle) -> np.ndarray:
        """A copy of uint8 `[H, W, 3]` with one rectangle erased."""
        filling = np.asarray(self.mean, np.float64)
        if where.noise is not None:
            filling = filling + where.noise * np.asarray(self.std, np.float64)
        erased = pixels.copy()
        inside = erased[where.top : where.top + where.height, where.left : where.left + where.width]
        inside[:] = np.rint(filling * 255).clip(0, 255)
        return erased

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = pixels.shape[:2]
        where = self.draw(height, width, rng)
        return pixels if where is None else self.erase(pixels, where)
