"""Photos with objects as arrays of a few fixed shapes, each one compilation, with a fixed number of objects."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.data.dataset import Arrays, naming
from jaxft.errors import UserError
from jaxft.fields import HeightWidth
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.objects import Annotated, ObjectSource
from jaxft.tasks.detection.report import describe
from jaxft.tasks.detection.scene import (
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


@dataclass(frozen=True)
class ObjectDataset:
    """Photos with objects, padded with black below and to the right.

    An example for training is `{"image": uint8 [H, W, 3], "size": int32 [2], "boxes": float32 [G, 4], "label": int32
    [G], "valid", "ignored": bool [G]}`, with `"masks": uint8 [G, H, W / 8]` (bits, the first pixel in the highest)
    where the settings ask for masks. `size` is the photo's height and width without the padding, `G` is max_objects.
    Objects that are `valid` are to be found, those that are `ignored` are neither that nor background. An example for
    evaluation has the image and the size.

    Attributes:
        pad_shapes: the shapes; `buckets` has the position in it of each photo's.
    """

    source: ObjectSource
    settings: Detection
    pad_shapes: tuple[HeightWidth, ...]
    buckets: np.ndarray

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        example, settings = self.source[index], self.settings
        with naming(example.name):
            scene = _scene(example, settings.masks)
        if settings.distort:
            distort = draw_distortion(rng)
            scene = _with_pixels(scene, distort(scene.pixels))
        scene = resize(scene, *resized_size(*scene.size, draw_scale(settings, rng), settings.rounding))
        if settings.crop is not None:
            scene = crop(scene, *draw_crop(*scene.size, settings.crop, settings.crop_kind, rng))
        if rng.random() < settings.flip:
            scene = flip(scene)
        pad_shape = self.pad_shapes[self.buckets[index]]
        return _padded(scene.pixels, pad_shape) | _ground_truth(scene, pad_shape, settings.max_objects)

    def evaluation(self, index: int) -> Arrays:
        example, settings = self.source[index], self.settings
        with naming(example.name):
            pixels = example.pixels()
        height, width = resized_size(example.height, example.width, settings.test_scale, settings.rounding)
        nothing = np.zeros((0,), np.int32)
        scene = resize(Scene(pixels, np.zeros((0, 4), np.float32), nothing, nothing.astype(bool)), height, width)
        return _padded(scene.pixels, self.pad_shapes[self.buckets[index]])

    def padding(self, bucket: int) -> Arrays:
        return _padded(np.zeros((1, 1, 3), np.uint8), self.pad_shapes[bucket])

    def names(self) -> Sequence[str]:
        return [f"{example.name}\t{_written(example)}" for example in self.source.examples]

    def check(self) -> None:
        self.source.check()

    def report(self, batch_size: int) -> str:
        return describe(self.source, self.settings.max_objects, self.pad_shapes, self.buckets, batch_size)


def training_dataset(source: ObjectSource, settings: Detection) -> ObjectDataset:
    """Examples for training; each photo's pad shape has room for the largest scale.

    Raises:
        UserError: a photo fits into no pad shape.
    """
    longest, shortest = max(max(scale) for scale in settings.scales), max(min(scale) for scale in settings.scales)
    pad_shapes = settings.pad_shapes or needed_pad_shapes((longest, shortest), settings, cropped=True)
    buckets = _buckets(source, settings, pad_shapes, (longest, shortest), cropped=True)
    return ObjectDataset(source, settings, pad_shapes, buckets)


def evaluation_dataset(source: ObjectSource, settings: Detection) -> ObjectDataset:
    """Examples for evaluation and prediction at the one test scale.

    Raises:
        UserError: a photo fits into no pad shape.
    """
    pad_shapes = settings.pad_shapes or needed_pad_shapes(settings.test_scale, settings, cropped=False)
    buckets = _buckets(source, settings, pad_shapes, settings.test_scale, cropped=False)
    return ObjectDataset(source, settings, pad_shapes, buckets)


def needed_pad_shapes(scale: HeightWidth, settings: Detection, *, cropped: bool) -> tuple[HeightWidth, ...]:
    """A landscape and a portrait pad shape for photos of a scale, or one where they would be the same."""
    longest, shortest = max(scale), min(scale)
    sizes = [(shortest, longest), (longest, shortest)]
    if cropped and settings.crop is not None:
        sizes = [largest_crop(*size, settings.crop, settings.crop_kind) for size in sizes]
        if settings.crop_kind in ("absolute", "absolute_range"):  # one size for all photos, or smaller
            sizes = [(max(height for height, _ in sizes), max(width for _, width in sizes))]
    step = settings.divisor
    rounded = [(-(-height // step) * step, -(-width // step) * step) for height, width in sizes]
    return tuple(dict.fromkeys(rounded))


def draw_scale(settings: Detection, rng: np.random.Generator) -> HeightWidth:
    """One of the training scales, or one between them, as MMDetection's RandomChoiceResize and RandomResize do."""
    if settings.scale_draw == "choice":
        return settings.scales[int(rng.integers(len(settings.scales)))]
    longest, shortest = [max(scale) for scale in settings.scales], [min(scale) for scale in settings.scales]
    return (
        int(rng.integers(min(longest), max(longest), endpoint=True)),
        int(rng.integers(min(shortest), max(shortest), endpoint=True)),
    )


def _buckets(
    source: ObjectSource, settings: Detection, pad_shapes: tuple[HeightWidth, ...], scale: HeightWidth, *, cropped: bool
) -> np.ndarray:
    """For each photo the position of the smallest pad shape that it fits into."""
    by_area = sorted(range(len(pad_shapes)), key=lambda index: pad_shapes[index][0] * pad_shapes[index][1])
    known: dict[HeightWidth, int] = {}
    for example in source.examples:
        size = (example.height, example.width)
        if size in known:
            continue
        room = resized_size(*size, scale, settings.rounding)
        if cropped and settings.crop is not None:
            room = largest_crop(*room, settings.crop, settings.crop_kind)
        fitting = [index for index in by_area if pad_shapes[index][0] >= room[0] and pad_shapes[index][1] >= room[1]]
        if not fitting:
            listed = ", ".join(f"{height} x {width}" for height, width in pad_shapes)
            raise UserError(
                f"{source.where}: {example.name} is up to {room[0]} x {room[1]} pixels after resizing, which fits into "
                f"none of the pad shapes {listed} (height x width); add one, or choose smaller scales."
            )
        known[size] = fitting[0]
    return np.array([known[example.height, example.width] for example in source.examples], np.int32)


def _scene(example: Annotated, masks: bool) -> Scene:
    objects = example.objects
    filled = bitmaps(objects.shapes, example.height, example.width) if masks else None
    return Scene(example.pixels(), objects.boxes, objects.labels, objects.ignored, filled)


def _with_pixels(scene: Scene, pixels: np.ndarray) -> Scene:
    return Scene(pixels, scene.boxes, scene.labels, scene.ignored, scene.masks)


def _padded(pixels: np.ndarray, pad_shape: HeightWidth) -> Arrays:
    image = np.zeros((*pad_shape, 3), np.uint8)
    image[: pixels.shape[0], : pixels.shape[1]] = pixels
    return {"image": image, "size": np.array(pixels.shape[:2], np.int32)}


def _written(example: Annotated) -> str:
    """The objects of a photo in a word that changes with any of them."""
    objects = example.objects
    arrays = (objects.boxes, objects.labels, objects.ignored)
    return f"{len(objects.labels)} objects {zlib.crc32(b''.join(array.tobytes() for array in arrays)):08x}"


def _ground_truth(scene: Scene, pad_shape: HeightWidth, max_objects: int) -> Arrays:
    """The objects of a scene as arrays of a fixed length: those to find first, the rest in the annotation's order."""
    order = np.argsort(scene.ignored, kind="stable")[:max_objects]
    count = len(order)
    boxes, label, ignored = (
        np.zeros((max_objects, 4), np.float32),
        np.zeros(max_objects, np.int32),
        np.zeros(max_objects, bool),
    )
    boxes[:count] = scene.boxes[order]
    ignored[:count] = scene.ignored[order]
    label[:count] = np.where(ignored[:count], 0, scene.labels[order])
    valid = (np.arange(max_objects) < count) & ~ignored
    row: Arrays = {"boxes": boxes, "label": label, "valid": valid, "ignored": ignored}
    if scene.masks is not None:
        height, width = scene.size
        bits = np.zeros((max_objects, pad_shape[0], -(-pad_shape[1] // 8)), np.uint8)
        bits[:count, :height, : -(-width // 8)] = np.packbits(scene.masks[order], axis=-1)
        row["masks"] = bits
    return row
