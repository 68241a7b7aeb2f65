"""Photos with objects in them: what COCO and PASCAL VOC have in common once they are read."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from jaxft.data.cores import on_all_cores
from jaxft.data.photo import ImageData, Photo
from jaxft.data.problems import refuse
from jaxft.data.source import random_part
from jaxft.errors import UserError

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
        number: COCO's image id; of VOC the position in the split, from 1.
        name: what to call the photo in messages and reports.
        truth: the annotation file's entries of the photo, each of them and unchanged, for evaluation alone. COCO: all
            fields as the file has them (`segmentation` where the source was read with masks). VOC: `id`, `image_id`,
            `category_id`, `bbox`, `area`, `iscrowd` 0 and `difficult` 0 or 1; see `jaxft.tasks.detection.voc`.
    """

    image: ImageData
    width: int
    height: int
    objects: Objects
    number: int
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
        flat: boxes narrower or lower than a pixel, which were left out.
        category_ids: the file's id of each class, in the order of `classes`; empty where no file gave the classes.
    """

    where: str
    classes: tuple[str, ...]
    examples: tuple[Annotated, ...]
    outside: int = 0
    flat: int = 0
    category_ids: tuple[int, ...] = ()

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
        """Open every file as far as its header, so that a missing one is found before training.

        Raises:
            UserError: files are missing, no images, or of another size than their annotation says; up to 20 are named.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            problems = on_all_cores(_problem, self.examples, f"checking the photos of {self.where}")
        refuse(self.where, [problem for problem in problems if problem])


def split_objects(source: ObjectSource, fraction: float, seed: int) -> tuple[ObjectSource, ObjectSource]:
    """Cut a source in two at random, so that settings can be chosen without the test photos.

    Returns:
        `(train, held_out)`, disjoint, together the whole source, each in the source's order; at least one photo each.

    Raises:
        UserError: there are fewer than two photos.
    """
    if len(source) < 2:
        raise UserError(f"{source.where} has {len(source)} photo(s); to hold a part out it needs at least 2.")
    held_out = random_part(len(source), fraction, seed)
    return source.only(np.flatnonzero(~held_out)), source.only(np.flatnonzero(held_out))


def box_problem(box: Sequence[float], width: int, height: int) -> str | None:
    """What is wrong with corners x0, y0, x1, y1 in a photo of a size; None where it can be used or clipped."""
    x0, y0, x1, y1 = box
    if not np.isfinite(box).all():
        return f"has a box {_written(box)} that is not made of finite numbers"
    if x1 < x0 or y1 < y0:
        return f"has a reversed box: from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return f"has the box {_written(box)}, which lies outside its photo of {width} x {height} pixels"
    return None


def _written(box: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"


def gather(rows: Sequence[tuple[Sequence[float], int, bool, float]], shapes: Sequence[Shape]) -> Objects:
    """Rows of (corners, label, ignored, area) as arrays."""
    return Objects(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], np.int32),
        ignored=np.array([row[2] for row in rows], bool),
        areas=np.array([row[3] for row in rows], np.float32),
        shapes=tuple(shapes),
    )


def file_size(path: Path) -> tuple[int, int]:
    """Width and height of a photo, from its header alone, as it is stored.

    Raises:
        UserError: the file is missing or no image.
    """
    try:
        with PIL.Image.open(path) as picture:
            return picture.size
    except FileNotFoundError as error:
        raise UserError(f"the photo {path} does not exist") from error
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombWarning) as error:
        raise UserError(f"the photo {path} cannot be read ({error})") from error


def _problem(example: Annotated) -> str | None:
    if not isinstance(example.image, Path):
        return None
    try:
        width, height = file_size(example.image)
    except UserError as error:
        return str(error)
    if (example.width, example.height) not in ((width, height), (height, width)):
        size = f"{example.width} x {example.height}"
        return f"the photo {example.image} has {width} x {height} pixels, but its annotation says {size}"
    return None
