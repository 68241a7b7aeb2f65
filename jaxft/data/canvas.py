"""Photos with objects on canvases: a few fixed shapes, each one compilation, and a fixed number of rows for objects."""

from dataclasses import dataclass

import numpy as np

from jaxft.config import Detection, Size
from jaxft.data.object_report import describe
from jaxft.data.objects import Annotated, ObjectSource
from jaxft.data.rows import Row, naming
from jaxft.data.scene import (
    Scene,
    bitmaps,
    crop,
    draw_crop,
    draw_distortion,
    flip,
    largest_crop,
    resize,
    resized_size,
)
from jaxft.errors import UserError


@dataclass(frozen=True)
class ObjectRows:
    """Photos with objects, in the upper left corner of a canvas that is black elsewhere.

    A row for training is `{"image": uint8 [H, W, 3], "size": int32 [2], "boxes": float32 [G, 4], "label": int32 [G],
    "valid", "ignored": bool [G]}`, with `"masks": uint8 [G, H, W / 8]` (bits, the first pixel in the highest) where
    the settings ask for masks. `size` is the photo's height and width on the canvas, `G` the cap. Rows that are
    `valid` are objects to find, those that are `ignored` neither that nor background. One for evaluation has the image
    and the size.

    Attributes:
        canvases: the shapes; `groups` has the position in it of each photo's.
        flip_chance: of a horizontal flip in training.
    """

    source: ObjectSource
    settings: Detection
    canvases: tuple[Size, ...]
    groups: np.ndarray
    flip_chance: float

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def train(self, index: int, rng: np.random.Generator) -> Row:
        example, settings = self.source[index], self.settings
        with naming(example.name):
            scene = _scene(example, settings.masks)
        if settings.distort:
            distort = draw_distortion(rng)
            scene = _with_pixels(scene, distort(scene.pixels))
        scene = resize(scene, *resized_size(*scene.size, draw_scale(settings, rng), settings.rounding))
        if settings.crop is not None:
            scene = crop(scene, *draw_crop(*scene.size, settings.crop, settings.crop_kind, rng))
        if rng.random() < self.flip_chance:
            scene = flip(scene)
        canvas = self.canvases[self.groups[index]]
        return _on_canvas(scene.pixels, canvas) | _truth(scene, canvas, settings.cap)

    def evaluate(self, index: int) -> Row:
        example, settings = self.source[index], self.settings
        with naming(example.name):
            pixels = example.pixels()
        height, width = resized_size(example.height, example.width, settings.test_scale, settings.rounding)
        nothing = np.zeros((0,), np.int32)
        scene = resize(Scene(pixels, np.zeros((0, 4), np.float32), nothing, nothing.astype(bool)), height, width)
        return _on_canvas(scene.pixels, self.canvases[self.groups[index]])

    def blank(self, group: int) -> Row:
        return _on_canvas(np.zeros((1, 1, 3), np.uint8), self.canvases[group])

    def report(self, batch_size: int) -> str:
        return describe(self.source, self.settings.cap, self.canvases, self.groups, batch_size)


def training_rows(source: ObjectSource, settings: Detection, flip_chance: float) -> ObjectRows:
    """Rows for training; each photo's canvas has room for the largest scale.

    Raises:
        UserError: a photo fits on no canvas.
    """
    longest, shortest = max(max(scale) for scale in settings.scales), max(min(scale) for scale in settings.scales)
    canvases = settings.canvases or needed_canvases((longest, shortest), settings, cropped=True)
    groups = _groups(source, settings, canvases, (longest, shortest), cropped=True)
    return ObjectRows(source, settings, canvases, groups, flip_chance)


def evaluation_rows(source: ObjectSource, settings: Detection) -> ObjectRows:
    """Rows for evaluation and prediction at the one test scale.

    Raises:
        UserError: a photo fits on no canvas.
    """
    canvases = settings.canvases or needed_canvases(settings.test_scale, settings, cropped=False)
    groups = _groups(source, settings, canvases, settings.test_scale, cropped=False)
    return ObjectRows(source, settings, canvases, groups, 0.0)


def needed_canvases(scale: Size, settings: Detection, *, cropped: bool) -> tuple[Size, ...]:
    """A landscape and a portrait canvas for photos of a scale, or one where they would be the same."""
    longest, shortest = max(scale), min(scale)
    sizes = [(shortest, longest), (longest, shortest)]
    if cropped and settings.crop is not None:
        sizes = [largest_crop(*size, settings.crop, settings.crop_kind) for size in sizes]
        if settings.crop_kind in ("absolute", "absolute_range"):  # one size for all photos, or smaller
            sizes = [(max(height for height, _ in sizes), max(width for _, width in sizes))]
    step = settings.divisor
    rounded = [(-(-height // step) * step, -(-width // step) * step) for height, width in sizes]
    return tuple(dict.fromkeys(rounded))


def draw_scale(settings: Detection, rng: np.random.Generator) -> Size:
    """One of the training scales, or one between them, as MMDetection's RandomChoiceResize and RandomResize do."""
    if settings.scale_draw == "choice":
        return settings.scales[int(rng.integers(len(settings.scales)))]
    longest, shortest = [max(scale) for scale in settings.scales], [min(scale) for scale in settings.scales]
    return (
        int(rng.integers(min(longest), max(longest), endpoint=True)),
        int(rng.integers(min(shortest), max(shortest), endpoint=True)),
    )


def _groups(
    source: ObjectSource, settings: Detection, canvases: tuple[Size, ...], scale: Size, *, cropped: bool
) -> np.ndarray:
    """For each photo the position of the smallest canvas that it fits on."""
    by_area = sorted(range(len(canvases)), key=lambda index: canvases[index][0] * canvases[index][1])
    known: dict[Size, int] = {}
    for example in source.examples:
        size = (example.height, example.width)
        if size in known:
            continue
        room = resized_size(*size, scale, settings.rounding)
        if cropped and settings.crop is not None:
            room = largest_crop(*room, settings.crop, settings.crop_kind)
        fitting = [index for index in by_area if canvases[index][0] >= room[0] and canvases[index][1] >= room[1]]
        if not fitting:
            listed = ", ".join(f"{height} x {width}" for height, width in canvases)
            raise UserError(
                f"{source.where}: {example.name} is up to {room[0]} x {room[1]} pixels after resizing, which fits on "
                f"none of the canvases {listed} (height x width); add one, or choose smaller scales."
            )
        known[size] = fitting[0]
    return np.array([known[example.height, example.width] for example in source.examples], np.int32)


def _scene(example: Annotated, masks: bool) -> Scene:
    objects = example.objects
    filled = bitmaps(objects.shapes, example.height, example.width) if masks else None
    return Scene(example.pixels(), objects.boxes, objects.labels, objects.ignored, filled)


def _with_pixels(scene: Scene, pixels: np.ndarray) -> Scene:
    return Scene(pixels, scene.boxes, scene.labels, scene.ignored, scene.masks)


def _on_canvas(pixels: np.ndarray, canvas: Size) -> Row:
    image = np.zeros((*canvas, 3), np.uint8)
    image[: pixels.shape[0], : pixels.shape[1]] = pixels
    return {"image": image, "size": np.array(pixels.shape[:2], np.int32)}


def _truth(scene: Scene, canvas: Size, cap: int) -> Row:
    """The objects of a scene in `cap` rows: those to find first, the rest in the order of the annotation."""
    order = np.argsort(scene.ignored, kind="stable")[:cap]
    count = len(order)
    boxes, label, ignored = np.zeros((cap, 4), np.float32), np.zeros(cap, np.int32), np.zeros(cap, bool)
    boxes[:count] = scene.boxes[order]
    ignored[:count] = scene.ignored[order]
    label[:count] = np.where(ignored[:count], 0, scene.labels[order])
    valid = (np.arange(cap) < count) & ~ignored
    row: Row = {"boxes": boxes, "label": label, "valid": valid, "ignored": ignored}
    if scene.masks is not None:
        height, width = scene.size
        bits = np.zeros((cap, canvas[0], -(-canvas[1] // 8)), np.uint8)
        bits[:count, :height, : -(-width // 8)] = np.packbits(scene.masks[order], axis=-1)
        row["masks"] = bits
    return row
