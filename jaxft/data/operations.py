"""The operations of the augmentation policies, on Pillow pictures: what each does with a magnitude, pixel for pixel as
in torchvision 0.29 when it is given a picture of Pillow.

An operation takes a picture (mode RGB, any size), a magnitude and a `Warp`, and gives a picture of the same size; those
that move no pixel leave the warp alone. `jaxft.data.policies` says which magnitudes are drawn.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import PIL.Image
from PIL import ImageEnhance, ImageOps
from PIL.Image import Resampling

WarpInterpolation = Literal["nearest", "bilinear", "bicubic"]
_FILTERS = {"nearest": Resampling.NEAREST, "bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}
Color = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Warp:
    """How operations that move pixels make new ones.

    The default filter is that of torchvision's training script; its classes alone take the nearest pixel.

    Attributes:
        interpolation: between pixels.
        fill: R, G, B, 0..255, of what lies outside the picture.
    """

    interpolation: WarpInterpolation = "bilinear"
    fill: Color = (0, 0, 0)

    def affine(self, picture: PIL.Image.Image, matrix: tuple[float, ...]) -> PIL.Image.Image:
        """Moves pixels: `(x, y)` of the result is `(a x + b y + c, d x + e y + f)` of the picture."""
        how = _FILTERS[self.interpolation]
        return picture.transform(picture.size, PIL.Image.Transform.AFFINE, matrix, how, fillcolor=self.fill)

    def rotated(self, picture: PIL.Image.Image, degrees: float) -> PIL.Image.Image:
        """Turns counter-clockwise around the center; the size stays."""
        return picture.rotate(degrees, _FILTERS[self.interpolation], fillcolor=self.fill)


BLACK = Warp()
"""What lies outside is black."""
Operation = Callable[[PIL.Image.Image, float, Warp], PIL.Image.Image]
Drawn = tuple[Operation, float]
"""An operation and the magnitude that it is done with."""


def apply(pixels: np.ndarray, drawn: Iterable[Drawn], warp: Warp) -> np.ndarray:
    """Does operations one after another: uint8 `[H, W, 3]` -> the same shape and type."""
    picture = PIL.Image.fromarray(pixels)
    for operation, magnitude in drawn:
        picture = operation(picture, magnitude, warp)
    return np.asarray(picture)


def identity(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Nothing."""
    return picture


def shear_x(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Moves each row to the left, by `magnitude` pixels more than the one above it."""
    return warp.affine(picture, (1, math.tan(_shear_angle(magnitude)), 0, 0, 1, 0))


def shear_y(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Moves each column up, by `magnitude` pixels more than the one to its left."""
    angle = _shear_angle(magnitude)
    return warp.affine(picture, (1, 0, 0, math.sin(angle) / math.cos(angle), 1, 0))


def _shear_angle(magnitude: float) -> float:
    # By way of degrees, as torchvision: what is lost in the last digit can decide between two pixels.
    return math.radians(math.degrees(math.atan(magnitude)))


def translate_x(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Moves to the right, by the whole part of `magnitude` in pixels."""
    return warp.affine(picture, (1, 0, -int(magnitude), 0, 1, 0))


def translate_y(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Moves down, by the whole part of `magnitude` in pixels."""
    return warp.affine(picture, (1, 0, 0, 0, 1, -int(magnitude)))


def rotate(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Turns counter-clockwise by `magnitude` degrees."""
    return warp.rotated(picture, magnitude)


def brightness(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Times `1 + magnitude`: -1 is black."""
    return ImageEnhance.Brightness(picture).enhance(1.0 + magnitude)


def color(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """The distance from gray times `1 + magnitude`: -1 is gray."""
    return ImageEnhance.Color(picture).enhance(1.0 + magnitude)


def contrast(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """The distance from the picture's mean gray times `1 + magnitude`: -1 is one gray everywhere."""
    return ImageEnhance.Contrast(picture).enhance(1.0 + magnitude)


def sharpness(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """The distance from the smoothed picture times `1 + magnitude`: -1 is smooth."""
    return ImageEnhance.Sharpness(picture).enhance(1.0 + magnitude)


def posterize(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Keeps the first bits of each value; `magnitude`, rounded, says how many: 1..8."""
    return ImageOps.posterize(picture, round(magnitude))


def solarize(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Inverts the values of `magnitude`, 0..255, and above."""
    return picture.point([value if value < magnitude else 255 - value for value in range(256)] * 3)


def autocontrast(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Stretches each channel to 0..255."""
    return ImageOps.autocontrast(picture)


def equalize(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """Gives each channel a flat histogram."""
    return ImageOps.equalize(picture)


def invert(picture: PIL.Image.Image, magnitude: float, warp: Warp) -> PIL.Image.Image:
    """255 minus each value."""
    return ImageOps.invert(picture)
