"""From an image to the network's input: random crops for training, a center crop for evaluation, normalization."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import cv2
import numpy as np
import PIL.Image

from jaxft.data.photo import ImageData, Photo

if TYPE_CHECKING:
    import jax

Interpolation = Literal["bilinear", "bicubic"]
_FILTERS = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}
Pixels = TypeVar("Pixels", np.ndarray, "jax.Array")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random resized crop and horizontal flip, as torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`.

    The crop is drawn by torchvision's algorithm and the resized pixels are torchvision's within one level of 255,
    except where a crop of a JPEG is at least twice as large as the output: there the file is decoded at a smaller size.

    Attributes:
        size: height and width of the output.
        scale: smallest and largest area of the crop, as a share of the image.
        ratio: smallest and largest width / height of the crop.
        flip: probability of the horizontal flip.
        interpolation: filter of the resize; always antialiased.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    interpolation: Interpolation = "bilinear"

    def __call__(self, image: ImageData, rng: np.random.Generator) -> np.ndarray:
        """Crop, resize, and perhaps flip one image.

        Args:
            image: a file, its encoded bytes, or pixels as uint8 `[H, W, 3]`.
            rng: where all random numbers come from.

        Returns:
            uint8 `[size, size, 3]`.

        Raises:
            UserError: the image cannot be read.
        """
        photo = Photo(image)
        left, top, width, height = random_crop(photo.width, photo.height, self.scale, self.ratio, rng)
        pixels, shrink = photo.pixels(max_shrink=min(width, height) / self.size)
        top, left, height, width = (value // shrink for value in (top, left, height, width))
        resized = _resize(pixels[top : top + height, left : left + width], self.size, self.interpolation)
        return cv2.flip(resized, 1) if rng.random() < self.flip else resized


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """Resize the shorter side, then cut out the center: torchvision's `Resize` and `CenterCrop`, bit for bit.

    Attributes:
        size: height and width of the output; a smaller picture is padded with black.
        resize: length of the shorter side before the crop.
        interpolation: filter of the resize; always antialiased.
    """

    size: int = 224
    resize: int = 256
    interpolation: Interpolation = "bilinear"

    def __call__(self, image: ImageData) -> np.ndarray:
        """Resize and crop one image.

        Args:
            image: a file, its encoded bytes, or pixels as uint8 `[H, W, 3]`.

        Returns:
            uint8 `[size, size, 3]`.

        Raises:
            UserError: the image cannot be read.
        """
        picture = self.resized(image)
        left, top = (_center(length, self.size) for length in picture.size)
        return np.asarray(picture.crop((left, top, left + self.size, top + self.size)))  # black outside the picture

    def resized(self, image: ImageData) -> PIL.Image.Image:
        """The picture before the crop."""
        picture = Photo(image).rgb()
        longer = int(self.resize * max(picture.size) / min(picture.size))
        resized = (self.resize, longer) if picture.width <= picture.height else (longer, self.resize)
        return picture.resize(resized, _FILTERS[self.interpolation])


Place = Literal["top left", "top right", "bottom left", "bottom right", "center"]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One of the crops of torchvision's `Resize` and `FiveCrop`, or of the second half of `TenCrop`, bit for bit.

    Attributes:
        whole: the resize, and the size of the crop, which is no larger than `whole.resize`.
        place: where the crop lies.
        mirrored: whether the picture is mirrored before it is cut, as the second half of `TenCrop` is.
    """

    whole: CenterCrop
    place: Place
    mirrored: bool = False

    @property
    def size(self) -> int:
        """Height and width of the output."""
        return self.whole.size

    def __call__(self, image: ImageData) -> np.ndarray:
        """uint8 `[size, size, 3]` of a file, its encoded bytes, or pixels as uint8 `[H, W, 3]`.

        Raises:
            UserError: the image cannot be read.
        """
        picture, size = self.whole.resized(image), self.whole.size
        if self.mirrored:
            picture = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        left, top = (_center(length, size) for length in picture.size)
        if self.place != "center":
            left = 0 if "left" in self.place else picture.width - size
            top = 0 if "top" in self.place else picture.height - size
        return np.asarray(picture.crop((left, top, left + size, top + size)))


def normalize(images: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> Pixels:
    """Scale pixels to 0..1 and standardize each channel: `(images / 255 - mean) / std`.

    It is separate from the transforms so that it can run on the device: uint8 is a quarter of the bytes to send there.

    Args:
        images: `[..., 3]`, 0..255, NumPy or JAX.
        mean: one value a channel, for pixels in 0..1.
        std: one value a channel, for pixels in 0..1.

    Returns:
        float32, the shape and kind of array of `images`.
    """
    channels = (1,) * (images.ndim - 1) + (-1,)  # spelled out, because JAX can be told to refuse rank promotion
    center, spread = (np.asarray(values, np.float32).reshape(channels) for values in (mean, std))
    return (images.astype(np.float32) / np.float32(255) - center) / spread


def random_crop(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a crop by the algorithm of torchvision's `RandomResizedCrop.get_params`.

    Up to ten times an area and a ratio (log-uniform) are drawn, until the crop fits; after that it is the central crop
    with the nearest ratio that does.

    Args:
        width: of the image.
        height: of the image.
        scale: smallest and largest area of the crop, as a share of the image.
        ratio: smallest and largest width / height of the crop.
        rng: where the random numbers come from.

    Returns:
        `(left, top, width, height)`, inside the image, at least one pixel.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(0, width - crop_width, endpoint=True))
            top = int(rng.integers(0, height - crop_height, endpoint=True))
            return left, top, crop_width, crop_height
    aspect = min(max(width / height, ratio[0]), ratio[1])
    crop_width, crop_height = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def _resize(pixels: np.ndarray, size: int, interpolation: Interpolation) -> np.ndarray:
    # Antialiasing has no effect when enlarging; OpenCV gives Pillow's result (within one level) in a sixth of the time.
    if interpolation == "bilinear" and max(pixels.shape[:2]) <= size:
        return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(PIL.Image.fromarray(pixels).resize((size, size), _FILTERS[interpolation]))


def _center(length: int, size: int) -> int:
    """Where a crop of `size` starts; the two roundings are torchvision's, for cropping and for padding."""
    return round((length - size) / 2) if length >= size else -((size - length) // 2)
