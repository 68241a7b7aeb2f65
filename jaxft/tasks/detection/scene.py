"""Photos with objects, changed together: resizing with the ratio kept, flips, crops, colors."""

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from jaxft.tasks.detection.objects import Shape

Rounding = Literal["nearest", "down"]
CropKind = Literal["absolute", "absolute_range", "relative", "relative_range"]


@dataclass(frozen=True)
class Scene:
    """A photo and its objects on their way to a batch.

    Attributes:
        pixels: uint8 `[H, W, 3]`.
        boxes: float32 `[K, 4]`, corners in pixels.
        labels: int32 `[K]`.
        ignored: bool `[K]`.
        masks: uint8 `[K, H, W]` of 0 and 1, or None.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    masks: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def resized_size(height: int, width: int, scale: tuple[int, int], rounding: Rounding = "nearest") -> tuple[int, int]:
    """Height and width after resizing: as large as the longest and the shortest side of `scale` allow.

    The rounding is MMDetection's (half up), or torchvision's (down).
    """
    longest, shortest = max(scale), min(scale)
    factor = min(longest / max(height, width), shortest / min(height, width))
    half = 0.5 if rounding == "nearest" else 0.0
    return max(int(height * factor + half), 1), max(int(width * factor + half), 1)


def resize(scene: Scene, height: int, width: int) -> Scene:
    """Resize everything; boxes are clipped to the photo, masks take the nearest pixel.

    Enlarging and shrinking are bilinear without antialiasing, as MMDetection and torchvision's detectors do it: a
    checkpoint has learned from such pixels.
    """
    old_height, old_width = scene.size
    stretch = np.array([width / old_width, height / old_height] * 2, np.float32)
    boxes = clip(scene.boxes * stretch[None], height, width)
    pixels = cv2.resize(scene.pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    masks = scene.masks
    if masks is not None:
        nearest = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) for mask in masks]
        masks = np.stack(nearest) if nearest else np.zeros((0, height, width), np.uint8)
    return replace(scene, pixels=pixels, boxes=boxes, masks=masks)


def clip(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes `[K, 4]` cut off at the borders of a photo."""
    return np.clip(boxes, 0, np.array([[width, height, width, height]], boxes.dtype))


def flip(scene: Scene) -> Scene:
    """Left and right exchanged."""
    width = scene.size[1]
    boxes = np.stack(
        [width - scene.boxes[:, 2], scene.boxes[:, 1], width - scene.boxes[:, 0], scene.boxes[:, 3]], axis=-1
    )
    masks = None if scene.masks is None else np.ascontiguousarray(scene.masks[:, :, ::-1])
    return replace(scene, pixels=cv2.flip(scene.pixels, 1), boxes=boxes, masks=masks)


def crop(scene: Scene, top: int, left: int, height: int, width: int) -> Scene:
    """Cut a part out; objects that are wholly outside it go."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    boxes = clip(scene.boxes - np.array([[left, top, left, top]], np.float32), height, width)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Scene(
        pixels=np.ascontiguousarray(scene.pixels[rows, columns]),
        boxes=boxes[kept],
        labels=scene.labels[kept],
        ignored=scene.ignored[kept],
        masks=None if scene.masks is None else scene.masks[kept][:, rows, columns],
    )


def draw_crop(
    height: int, width: int, numbers: tuple[float, float], kind: CropKind, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Where to cut: `(top, left, height, width)` inside a photo, by the rules of MMDetection's `RandomCrop`."""
    first, second = numbers
    if kind == "absolute":
        crop_width, crop_height = min(int(first), width), min(int(second), height)
    elif kind == "absolute_range":
        crop_height, crop_width = (
            int(rng.integers(min(side, int(first)), min(side, int(second)), endpoint=True)) for side in (height, width)
        )
    else:
        shares = (second, first) if kind == "relative" else (rng.uniform(first, 1), rng.uniform(second, 1))
        crop_height, crop_width = int(height * shares[0] + 0.5), int(width * shares[1] + 0.5)
    crop_height, crop_width = max(crop_height, 1), max(crop_width, 1)
    top = int(rng.integers(0, height - crop_height, endpoint=True))
    left = int(rng.integers(0, width - crop_width, endpoint=True))
    return top, left, crop_height, crop_width


def largest_crop(height: int, width: int, numbers: tuple[float, float], kind: CropKind) -> tuple[int, int]:
    """The largest height and width that `draw_crop` may give for a photo of at most this size."""
    first, second = numbers
    if kind == "absolute":
        return min(int(second), height), min(int(first), width)
    if kind == "absolute_range":
        return min(int(second), height), min(int(second), width)
    if kind == "relative":
        return int(height * second + 0.5), int(width * first + 0.5)
    return height, width


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """One draw of the photometric distortion that SSD introduced; the default changes nothing.

    Attributes:
        brightness: added to all channels, of 255.
        contrast: multiplies them, before (`contrast_first`) or after saturation and hue.
        saturation: multiplies the saturation.
        hue: added to the hue, degrees.
        order: of the channels.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_first: bool = False
    saturation: float = 1.0
    hue: float = 0.0
    order: tuple[int, int, int] = (0, 1, 2)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 `[H, W, 3]`, R, G, B, distorted and cut to 0..255."""
        image: np.ndarray = pixels.astype(np.float32) + np.float32(self.brightness)
        if self.contrast_first:
            image *= np.float32(self.contrast)
        # Hue in degrees, saturation 0..1, value as the channels.
        hsv: np.ndarray = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.float32)
        hsv[..., 1] *= np.float32(self.saturation)
        if self.saturation > 1:
            hsv[..., 1] = hsv[..., 1].clip(0, 1)
        hsv[..., 0] += np.float32(self.hue)
        hsv[..., 0][hsv[..., 0] > 360] -= 360
        hsv[..., 0][hsv[..., 0] < 0] += 360
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
        if not self.contrast_first:
            image *= np.float32(self.contrast)
        return np.clip(image[..., list(self.order)] + 0.5, 0, 255).astype(np.uint8)


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Each change with probability one half, within SSD's limits: 32 of 255, 0.5 to 1.5 twice, 18 degrees."""
    first, brightness, contrast, saturation, hue, swap = rng.integers(0, 2, 6).astype(bool)
    red, green, blue = rng.permutation(3).tolist()
    draws = rng.uniform([-32, 0.5, 0.5, -18], [32, 1.5, 1.5, 18]).tolist()
    return Distortion(
        brightness=draws[0] if brightness else 0.0,
        contrast=draws[1] if contrast else 1.0,
        contrast_first=bool(first),
        saturation=draws[2] if saturation else 1.0,
        hue=draws[3] if hue else 0.0,
        order=(red, green, blue) if swap else (0, 1, 2),
    )


def bitmaps(shapes: tuple[Shape, ...], height: int, width: int) -> np.ndarray:
    """Outlines filled in: uint8 `[K, height, width]` of 0 and 1, by pycocotools' rules."""
    filled = np.zeros((len(shapes), height, width), np.uint8)
    for index, shape in enumerate(shapes):
        if isinstance(shape, list):
            code = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
        elif isinstance(shape["counts"], list):
            code = coco_mask.frPyObjects(shape, height, width)
        else:
            code = shape
        filled[index] = coco_mask.decode(code)
    return filled
