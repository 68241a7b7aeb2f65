"""Photos with objects as arrays of a few fixed shapes, each one compilation, with a fixed number of objects."""

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxft.data.dataset import Arrays, naming
from jaxft.errors import UserError
from jaxft.fields import HeightWidth
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.bounds import largest_after, needed_pad_shapes, refuse_unfit
from jaxft.tasks.detection.mixing import run_mixing
from jaxft.tasks.detection.mixtures import Mixture
from jaxft.tasks.detection.objects import Annotated, ObjectSource
from jaxft.tasks.detection.report import describe
from jaxft.tasks.detection.scene import Scene, bitmaps
from jaxft.tasks.detection.steps import Steps, TrainSteps, evaluation_steps, run, training_steps
from jaxft.tasks.detection.transforms import Pad, RandomCrop

TRIES = 1000
"""Photos that a refused one is replaced by at most; MMEngine's `max_refetch`."""


@dataclass(frozen=True)
class ObjectDataset:
    """Photos with objects, padded with black below and to the right.

    An example for training is `{"image": uint8 [H, W, 3], "size": int32 [2], "boxes": float32 [G, 4], "label": int32
    [G], "valid", "ignored": bool [G]}`, with `"masks": uint8 [G, H, W / 8]` (bits, the first pixel in the highest)
    where the settings ask for masks. `size` is the height and width without the padding, `G` is max_objects. Objects
    that are `valid` are to be found, those that are `ignored` are neither that nor background. An example for
    evaluation has the image and the size.

    What a step `Pad` adds is a part of the photo for the model. In training `size` counts it in. In evaluation `size`
    is that of the photo alone, from which the way back to the stored photo is known, and `seen` int32 [2] counts it
    in; it is there where there is such a step.

    Attributes:
        steps: what happens to a photo by itself before the padding.
        mixed: what follows after that, where photos are mixed.
        pad_shapes: the shapes; `buckets` has the position in it of each photo's.
        remark: what a person should know besides the report.
    """

    source: ObjectSource
    settings: Detection
    steps: Steps
    mixed: TrainSteps
    pad_shapes: tuple[HeightWidth, ...]
    buckets: np.ndarray
    remark: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        scene, pad_shape = self._drawn(index, rng), self.pad_shapes[self.buckets[index]]
        return padded(scene.pixels, pad_shape) | ground_truth(scene, pad_shape, self.settings.max_objects)

    def _drawn(self, index: int, rng: np.random.Generator) -> Scene:
        """A scene that no step refuses: that of another photo of the same pad shape, drawn from `rng`, too, where one
        refuses this one, as MMEngine's data sets take another photo."""
        for _ in range(TRIES):
            photos = _Photos(self, rng)
            scene = photos.alone(index)
            if scene is not None and self.mixed:
                scene = run_mixing(self.mixed, scene, rng, photos.another)
            if scene is not None:
                return scene
            index = int(rng.choice(self._of_bucket[int(self.buckets[index])]))
        raise self.refused()

    def refused(self) -> UserError:
        """What is said where steps leave photo after photo without objects."""
        return UserError(
            f"{self.source.where}: {TRIES} photos in a row were left without objects by a transform that wants some; "
            "set its allow_negative_crop, or unset its keep_empty, or leave photos without objects out "
            "(--task.no-keep-empty)."
        )

    @cached_property
    def _of_bucket(self) -> dict[int, np.ndarray]:
        """The positions of the photos of each bucket."""
        return {int(bucket): np.flatnonzero(self.buckets == bucket) for bucket in np.unique(self.buckets)}

    def evaluation(self, index: int) -> Arrays:
        example, pads = self.source[index], [isinstance(step, Pad) for step in self.steps]
        first = pads.index(True) if True in pads else len(pads)
        with naming(example.name):
            scene = _only_pixels(example.pixels())
        nothing = np.random.default_rng(0)  # no step of evaluation draws
        photo = run(self.steps[:first], scene, nothing)
        assert photo is not None
        seen = run(self.steps[first:], photo, nothing)
        assert seen is not None
        row = padded(seen.pixels, self.pad_shapes[self.buckets[index]])
        if first < len(pads):
            row |= {"size": np.array(photo.size, np.int32), "seen": np.array(seen.size, np.int32)}
        return row

    def padding(self, bucket: int) -> Arrays:
        row = padded(np.zeros((1, 1, 3), np.uint8), self.pad_shapes[bucket])
        return row | {"seen": row["size"]} if any(isinstance(step, Pad) for step in self.steps) else row

    def names(self) -> Sequence[str]:
        return [f"{example.name}\t{_written(example)}" for example in self.source.examples]

    def check(self) -> None:
        self._once().check()

    def report(self, batch_size: int) -> str:
        limit = self.settings.max_objects
        text = describe(self.source, limit, self.pad_shapes, self.buckets, batch_size, self.mixed)
        text += f"\n  {self.remark}" if self.remark else ""
        different = len(self._once())
        return text if different == len(self) else f"{text}\n  of these photos {different:,} are different ones"

    def _once(self) -> ObjectSource:
        """Each photo once, also where `data.splits` repeats some."""
        examples = enumerate(self.source.examples)
        files = {one.image if isinstance(one.image, Path) else id(one.image): index for index, one in examples}
        return self.source.only(files.values())


class _Photos:
    """The photos of one example, each decoded once, however often it is drawn."""

    def __init__(self, dataset: ObjectDataset, rng: np.random.Generator) -> None:
        self._dataset, self._rng = dataset, rng
        self._stored: dict[int, Scene] = {}

    def alone(self, index: int) -> Scene | None:
        """A photo after the steps for each by itself; None where one of them refuses it."""
        example = self._dataset.source[index]
        with naming(example.name):
            if index not in self._stored:
                self._stored[index] = _scene(example, self._dataset.settings.masks)
            return run(self._dataset.steps, self._stored[index], self._rng)

    def another(self, tries: int) -> Scene:
        """One of all photos; up to `tries` are drawn, until one has objects."""
        while True:
            tries -= 1
            scene = self._any(empty=tries == 0)
            if scene is not None and (len(scene.boxes) or tries == 0):
                return scene

    def _any(self, *, empty: bool) -> Scene | None:
        """One of all photos that no step refuses. Where it is to have objects and has none before any step, it is not
        decoded: None."""
        source, steps = self._dataset.source, self._dataset.steps
        for _ in range(TRIES):
            index = int(self._rng.integers(len(source)))
            if not (empty or steps or len(source[index].objects.labels)):
                return None
            if (scene := self.alone(index)) is not None:
                return scene
        raise self._dataset.refused()


def training_dataset(source: ObjectSource, settings: Detection) -> ObjectDataset:
    """Examples for training; each photo's pad shape has room for the largest that the steps can make of it.

    Raises:
        UserError: a photo fits into no pad shape, no crop of the photos of one would have an object, or a step cannot
            take photos as large as they may be.
    """
    steps, mixed = settings.photo_transforms, training_steps(settings)
    if not steps and not any(isinstance(step, Mixture) for step in mixed):
        steps, mixed = tuple(step for step in mixed if not isinstance(step, Mixture)), ()
    dataset = _dataset(source, settings, steps, mixed, settings.pad_shapes)
    before = itertools.takewhile(lambda step: not isinstance(step, Mixture), mixed)
    if any(isinstance(step, RandomCrop) and not step.allow_negative_crop for step in (*steps, *before)):
        counts = np.array([len(example.objects.labels) for example in source.examples])
        for bucket in np.unique(dataset.buckets):
            if not counts[dataset.buckets == bucket].any():
                height, width = dataset.pad_shapes[bucket]
                raise UserError(
                    f"{source.where}: no photo that is padded to {height} x {width} has an object, but RandomCrop "
                    "wants one in each crop; set allow_negative_crop, or leave photos without objects out "
                    "(--task.no-keep-empty)."
                )
    return dataset


def evaluation_dataset(source: ObjectSource, settings: Detection) -> ObjectDataset:
    """Examples for evaluation and prediction.

    Raises:
        UserError: a photo fits into no pad shape.
    """
    return _dataset(source, settings, evaluation_steps(settings), (), settings.pad_shapes)


def with_steps(dataset: ObjectDataset, steps: Steps) -> ObjectDataset:
    """The same photos for evaluation after other steps, in pad shapes that have room for what comes out of them: the
    dataset's own where it fits all, else those that the steps need."""
    own = dataset.pad_shapes
    fits = all(
        room[0] <= own[bucket][0] and room[1] <= own[bucket][1]
        for room, bucket in {
            (largest_after(steps, example.height, example.width), int(bucket))
            for example, bucket in zip(dataset.source.examples, dataset.buckets, strict=True)
        }
    )
    return _dataset(dataset.source, dataset.settings, steps, (), own if fits else ())


def _dataset(
    source: ObjectSource, settings: Detection, steps: Steps, mixed: TrainSteps, given: tuple[HeightWidth, ...]
) -> ObjectDataset:
    """With the smallest pad shape for each photo that has room for it."""
    sizes = [(example.height, example.width) for example in source.examples]
    every = (*steps, *mixed)
    refuse_unfit(source.where, steps, mixed, sizes)
    pad_shapes = given or needed_pad_shapes(every, settings.divisor, sizes)
    by_area = sorted(range(len(pad_shapes)), key=lambda index: pad_shapes[index][0] * pad_shapes[index][1])
    known: dict[HeightWidth, int] = {}
    for example, size in zip(source.examples, sizes, strict=True):
        if size in known:
            continue
        room = largest_after(every, *size)
        fitting = [index for index in by_area if pad_shapes[index][0] >= room[0] and pad_shapes[index][1] >= room[1]]
        if not fitting:
            listed = ", ".join(f"{height} x {width}" for height, width in pad_shapes)
            raise UserError(
                f"{source.where}: {example.name} is up to {room[0]} x {room[1]} pixels after resizing, which fits into "
                f"none of the pad shapes {listed} (height x width); add one, or choose smaller scales."
            )
        known[size] = fitting[0]
    buckets = np.array([known[size] for size in sizes], np.int32)
    return ObjectDataset(source, settings, steps, mixed, pad_shapes, buckets)


def _scene(example: Annotated, masks: bool) -> Scene:
    objects = example.objects
    filled = bitmaps(objects.shapes, example.height, example.width) if masks else None
    return Scene(example.pixels(), objects.boxes, objects.labels, objects.ignored, filled)


def _only_pixels(pixels: np.ndarray) -> Scene:
    nothing = np.zeros((0,), np.int32)
    return Scene(pixels, np.zeros((0, 4), np.float32), nothing, nothing.astype(bool))


def padded(pixels: np.ndarray, pad_shape: HeightWidth) -> Arrays:
    """uint8 `[h, w, 3]` in the upper left corner of black: the `image`, and its `size` without the padding."""
    image = np.zeros((*pad_shape, 3), np.uint8)
    image[: pixels.shape[0], : pixels.shape[1]] = pixels
    return {"image": image, "size": np.array(pixels.shape[:2], np.int32)}


def _written(example: Annotated) -> str:
    """The objects of a photo in a word that changes with any of them."""
    objects = example.objects
    arrays = (objects.boxes, objects.labels, objects.ignored)
    return f"{len(objects.labels)} objects {zlib.crc32(b''.join(array.tobytes() for array in arrays)):08x}"


def ground_truth(scene: Scene, pad_shape: HeightWidth, max_objects: int) -> Arrays:
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
