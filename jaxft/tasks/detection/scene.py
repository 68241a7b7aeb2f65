"""Photos with objects, changed together, without chance: sizes, flips, crops, colors."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from jaxft.tasks.detection.objects import Shape
from jaxft.tasks.detection.transforms import Direction, Interpolation, Rounding

_FILTERS: dict[Interpolation, int] = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
_FLIPS: dict[Direction, int] = {"horizontal": 1, "vertical": 0, "diagonal": -1}


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


def resize(
    scene: Scene, height: int, width: int, *, interpolation: Interpolation = "bilinear", clipped: bool = True
) -> Scene:
    """Resize everything; masks take the nearest pixel.

    Nothing is smoothed before it shrinks (but by `area`), as MMDetection and torchvision's detectors do it: a
    checkpoint has learned from such pixels.

    Args:
        clipped: whether boxes are cut off at the border.
    """
    old_height, old_width = scene.size
    stretch = np.array([width / old_width, height / old_height] * 2, np.float32)
    boxes = scene.boxes * stretch[None]
    pixels = cv2.resize(scene.pixels, (width, height), interpolation=_FILTERS[interpolation])
    masks = scene.masks
    if masks is not None:
        nearest = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) for mask in masks]
        masks = np.stack(nearest) if nearest else np.zeros((0, height, width), np.uint8)
    return replace(scene, pixels=pixels, boxes=clip(boxes, height, width) if clipped else boxes, masks=masks)


def clip(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes `[K, 4]` cut off at the borders of a photo."""
    return np.clip(boxes, 0, np.array([[width, height, width, height]], boxes.dtype))


def partly_inside(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Which boxes `[K, 4]` have a part in a photo of a size: bool `[K]`."""
    return (boxes[:, 0] < width) & (boxes[:, 1] < height) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)


def flip(scene: Scene, direction: Direction = "horizontal") -> Scene:
    """Left and right exchanged, or top and bottom, or both."""
    height, width = scene.size
    boxes, rows, columns = scene.boxes, slice(None), slice(None)
    if direction != "vertical":
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=-1)
        columns = slice(None, None, -1)
    if direction != "horizontal":
        boxes = np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], axis=-1)
        rows = slice(None, None, -1)
    return replace(
        scene,
        pixels=cv2.flip(scene.pixels, _FLIPS[direction]),
        boxes=boxes,
        masks=None if scene.masks is None else np.ascontiguousarray(scene.masks[:, rows, columns]),
    )


def crop(
    scene: Scene, top: int, left: int, height: int, width: int, *, clipped: bool = True, recomputed: bool = False
) -> Scene:
    """Cut a part out; objects that are wholly outside it go.

    Args:
        clipped: whether boxes are cut off at the border.
        recomputed: whether boxes become those of what is left of the masks, where there are masks.
    """
    boxes = scene.boxes - np.array([[left, top, left, top]], np.float32)
    if clipped:
        boxes = clip(boxes, height, width)
    inside = partly_inside(boxes, height, width)
    rows, columns = slice(top, top + height), slice(left, left + width)
    masks = None if scene.masks is None else scene.masks[inside][:, rows, columns]
    if recomputed and masks is not None:
        boxes[inside] = outer_boxes(masks)
    return Scene(
        pixels=np.ascontiguousarray(scene.pixels[rows, columns]),
        boxes=boxes[inside],
        labels=scene.labels[inside],
        ignored=scene.ignored[inside],
        masks=masks,
    )


def outer_boxes(masks: np.ndarray) -> np.ndarray:
    """The smallest box around each mask of `[K, H, W]`, float32 `[K, 4]`; zeros around an empty mask."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size:
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def place(scene: Scene, top: int, left: int, height: int, width: int, color: np.ndarray) -> Scene:
    """Put a scene into a larger one of one color, uint8 `[3]`."""
    rows, columns = slice(top, top + scene.size[0]), slice(left, left + scene.size[1])
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = np.full((width, 3), color, np.uint8)  # a row at a time, which is several times as fast
    pixels[rows, columns] = scene.pixels
    masks = scene.masks
    if masks is not None:
        masks = np.zeros((len(scene.masks), height, width), np.uint8)  # type: ignore[arg-type]
        masks[:, rows, columns] = scene.masks
    return replace(
        scene, pixels=pixels, boxes=scene.boxes + np.array([[left, top, left, top]], np.float32), masks=masks
    )


def warp(
    scene: Scene, matrix: np.ndarray, height: int, width: int, color: tuple[float, ...], *, clipped: bool = True
) -> Scene:
    """Move every point of a scene; objects that are wholly outside go, and masks take the nearest pixel.

    Args:
        matrix: `[3, 3]`, from homogeneous points of the scene to those of the result.
        height, width: of the result.
        color: of what is not in the scene.
        clipped: whether boxes are cut off at the border.
    """
    pixels = cv2.warpPerspective(scene.pixels, matrix, (width, height), borderValue=color)
    corners = scene.boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2).astype(np.float64)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    moved /= corners @ matrix[2:, :2].T + matrix[2, 2]
    boxes = np.concatenate([moved.min(1), moved.max(1)], 1).astype(np.float32)
    if clipped:
        boxes = clip(boxes, height, width)
    inside = partly_inside(boxes, height, width)
    masks = scene.masks
    if masks is not None:
        masks = np.zeros((int(inside.sum()), height, width), np.uint8)
        for found, mask in zip(masks, scene.masks[inside], strict=True):  # type: ignore[index]
            cv2.warpPerspective(mask, matrix, (width, height), dst=found, flags=cv2.INTER_NEAREST)
    return Scene(pixels, boxes[inside], scene.labels[inside], scene.ignored[inside], masks)


def keep(scene: Scene, kept: np.ndarray) -> Scene:
    """Only the objects for which bool `[K]` says so."""
    masks = None if scene.masks is None else scene.masks[kept]
    return Scene(scene.pixels, scene.boxes[kept], scene.labels[kept], scene.ignored[kept], masks)


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


def shift_hsv(pixels: np.ndarray, hue: int, saturation: int, value: int) -> np.ndarray:
    """uint8 `[H, W, 3]` with numbers added to its hue, of 180, and to its saturation and value, of 255."""
    levels = np.arange(256)
    moved = ((levels + hue) % 180, (levels + saturation).clip(0, 255), (levels + value).clip(0, 255))
    table = np.stack(moved, axis=-1).astype(np.uint8)[None]
    hsv = cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), table)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


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
