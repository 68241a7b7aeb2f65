"""Photos with objects in them: what COCO and PASCAL VOC have in common once they are read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxft.config import Data
from jaxft.data.photo import ImageData, Photo
from jaxft.data.photo_check import Stored, stored_sizes
from jaxft.data.problems import refuse
from jaxft.data.shared import Packed
from jaxft.data.source import random_fold, random_part
from jaxft.errors import UserError
from jaxft.fields import Check

Shape = list[list[float]] | dict[str, Any]
"""The outline of an object: polygons `[[x0, y0, x1, y1, ...], ...]`, or a run-length code `{"size", "counts"}`."""


Entry = dict[str, Any]
"""An object in COCO's form; `bbox` is x, y, width, height in pixels of the photo as it is stored."""


class Objects(NamedTuple):
    """The `K` objects of one photo, in pixels of the photo as it is stored.

    Attributes:
        boxes: float32 `[K, 4]`, corners x0, y0, x1, y1, inside the photo.
        labels: int32 `[K]`, positions in the source's `classes`.
        ignored: bool `[K]`: COCO's crowds and VOC's difficult objects, neither to be found nor background.
        areas: float32 `[K]`, of the objects themselves, by which COCO tells small from large.
        shapes: an outline for each object where the source was read with masks; empty otherwise.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    areas: np.ndarray
    shapes: tuple[Shape, ...] = ()


class Annotated(NamedTuple):
    """One photo with its objects, not decoded yet.

    Attributes:
        image: the file.
        width, height: in pixels; the boxes are those of a photo of this size.
        number: COCO's image id, which may be text; of VOC the position in the split, from 1.
        name: what to call the photo in messages and reports.
        truth: the annotation file's entries of the photo, each of them and unchanged, for evaluation alone (what is
            trained on comes without). COCO: all
            fields as the file has them (`segmentation` where the source was read with masks), `id`, `area` and
            `iscrowd` filled in where it has none. VOC: `id`, `image_id`, `category_id`, `bbox`, `area`, `iscrowd` 0 and
            `difficult` 0 or 1; see `jaxft.tasks.detection.voc`.
    """

    image: ImageData
    width: int
    height: int
    objects: Objects
    number: int | str
    name: str
    truth: tuple[Entry, ...] = ()

    def pixels(self) -> np.ndarray:
        """Decode: uint8 `[height, width, 3]`, upright where the annotation is of the upright photo.

        Raises:
            UserError: the photo is missing or corrupt, or of another size than the annotation says.
        """
        for upright in (True, False):
            photo = Photo(self.image, upright=upright)
            if (photo.width, photo.height) == (self.width, self.height):
                return photo.pixels()[0]
        raise UserError(
            f"{photo.name} has {photo.width} x {photo.height} pixels, but its annotation says "
            f"{self.width} x {self.height}."
        )


@dataclass(frozen=True)
class ObjectSource:
    """A split of photos with objects.

    Attributes:
        where: the file that it was read from, for messages.
        classes: names, in the order of the labels.
        examples: the photos.
        outside: boxes that reached beyond their photo and were clipped.
        flat: boxes narrower or lower than a pixel, which were left out of training.
        no_area: objects whose area is 0, which were left out.
        set_aside: objects marked `ignore`, which were left out.
        check_how: what `check` does.
        category_ids: the file's id of each class, in the order of `classes`; empty where no file gave the classes.
    """

    where: str
    classes: tuple[str, ...]
    examples: Sequence[Annotated]
    outside: int = 0
    flat: int = 0
    category_ids: tuple[int, ...] = ()
    no_area: int = 0
    set_aside: int = 0
    check_how: Check = "full"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"examples": Packed(self.examples)}  # which worker processes share

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Annotated:
        return self.examples[index]

    def only(self, indices: Iterable[int]) -> "ObjectSource":
        """The photos at `indices`, in that order."""
        return replace(self, examples=tuple(self.examples[index] for index in indices))

    def as_one_class(self, name: str) -> "ObjectSource":
        """The same objects, all of one class, whose category id is that of the first class."""
        first = self.category_ids[:1]
        examples = (
            example._replace(
                objects=example.objects._replace(labels=np.zeros_like(example.objects.labels)),
                truth=tuple(
                    entry | {"category_id": first[0]}
                    for entry in example.truth
                    if entry["category_id"] in self.category_ids
                ),
            )
            for example in self.examples
        )
        return replace(self, classes=(name,), examples=tuple(examples), category_ids=first)

    def check(self) -> None:
        """Look at every file as `check_how` says, so that one that is missing or damaged is found before training.

        Raises:
            UserError: files are missing, no images, damaged or of another size than their annotation says; up to 20 are
                named.
        """
        files = {index: example.image for index, example in enumerate(self.examples) if isinstance(example.image, Path)}
        sizes = stored_sizes(list(files.values()), self.check_how, f"the photos of {self.where}")
        problems = [
            size_problem(file, self[index], size) for (index, file), size in zip(files.items(), sizes, strict=True)
        ]
        refuse(self.where, [problem for problem in problems if problem])


def split_objects(source: ObjectSource, data: Data, seed: int) -> tuple[ObjectSource, ObjectSource]:
    """Cut a source in two at random, by `holdout` or `folds`, so that settings can be chosen without the test photos.

    Returns:
        `(train, held_out)`, disjoint, together the whole source, each in the source's order; at least one photo each.

    Raises:
        UserError: there are fewer photos than parts.
    """
    if len(source) < max(data.folds, 2):
        raise UserError(
            f"{source.where} has {len(source)} photo(s); to hold a part out it needs at least {max(data.folds, 2)}."
        )
    if data.folds:
        held_out = random_fold(len(source), data.folds, data.fold, seed)
    else:
        held_out = random_part(len(source), data.holdout, seed)
    return source.only(np.flatnonzero(~held_out)), source.only(np.flatnonzero(held_out))


def gather(rows: Sequence[tuple[Sequence[float], int, bool, float]], shapes: Sequence[Shape]) -> Objects:
    """Rows of (corners, label, ignored, area) as arrays."""
    return Objects(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], np.int32),
        ignored=np.array([row[2] for row in rows], bool),
        areas=np.array([row[3] for row in rows], np.float32),
        shapes=tuple(shapes),
    )


def grouped(
    photos: np.ndarray, count: int, boxes: np.ndarray, labels: np.ndarray, ignored: np.ndarray, areas: np.ndarray
) -> list[Objects]:
    """The objects of each of `count` photos, in the order of the rows; `photos` `[N]` says whose each row is."""
    order = np.argsort(photos, kind="stable")
    ends = np.searchsorted(photos[order], np.arange(1, count))
    arrays = (boxes.astype(np.float32), labels.astype(np.int32), ignored.astype(bool), areas.astype(np.float32))
    return [Objects(*parts) for parts in zip(*(np.split(array[order], ends) for array in arrays), strict=True)]


def size_problem(file: Path | str, example: Annotated, size: Stored) -> str | None:
    """What is wrong with a photo by its size as it is stored, or why that is not known; None where nothing is."""
    if not isinstance(size, tuple):
        return size
    width, height = size
    if (example.width, example.height) not in ((width, height), (height, width)):
        return (
            f"the photo {file} has {width} x {height} pixels, but its annotation says {example.width} x "
            f"{example.height}"
        )
    return None
