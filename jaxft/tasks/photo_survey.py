"""What every survey of photos has: their sizes, odd ones among them, and those that cannot be used."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxft.data.photo import ImageData, Photo, file_of
from jaxft.data.photo_check import Stored, stored_sizes
from jaxft.data.source import Example as Labeled
from jaxft.errors import UserError
from jaxft.reporting.details import Cell, Curve, Example, Plot, Table
from jaxft.reporting.survey import Remark, remark

LONGEST = 3.0
"""How many times as long as the shorter side the longer one of an ordinary photo is at most."""
_POINTS = 2000  # in a plot of sizes at most


class Photos(NamedTuple):
    """What is known of the photos of a split by their sizes."""

    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    remarks: tuple[Remark, ...]


def survey_sources(found: Sequence[Labeled], truths: Iterable[str], seen: int) -> tuple[list[Example], Photos]:
    """The examples of a source for a page, and what is known of their photos by their sizes.

    Args:
        truths: the ground truth of each in words.
        seen: as of `survey_photos`.
    """
    examples = [
        Example(index=index, name=one.name, truth=truth, predicted="", wrong=0.0, file=file_of(one.image))
        for index, (one, truth) in enumerate(zip(found, truths, strict=True))
    ]
    return examples, survey_photos(examples, sizes_of([one.image for one in found], "the photos"), seen)


def sizes_of(images: Sequence[ImageData], what: str) -> list[Stored]:
    """Width and height of images, or what is wrong with each; all are decoded, unless the cache knows them to be whole.

    Args:
        what: they are, for the display.
    """
    files = {index: image for index, image in enumerate(images) if isinstance(image, Path)}
    found = dict(zip(files, stored_sizes(list(files.values()), "full", what), strict=True))
    return [found[index] if index in found else _in_memory(image) for index, image in enumerate(images)]


def _in_memory(image: ImageData) -> Stored:
    try:
        photo = Photo(image)
        photo.pixels()
    except UserError as error:
        return str(error)
    return photo.width, photo.height


def survey_photos(examples: Sequence[Example], sizes: Sequence[Stored], seen: int | None = None) -> Photos:
    """Sizes as a table and a plot; and remarks on broken, long and small photos.

    Args:
        examples: of the photos, in their order.
        sizes: as of `sizes_of`.
        seen: the side, in pixels, of what the model sees of a photo; None where that depends on the photo.
    """
    pairs = list(zip(examples, sizes, strict=True))
    broken = [_noted(example, size) for example, size in pairs if isinstance(size, str)]
    whole = [(example, size) for example, size in pairs if isinstance(size, tuple)]
    remarks = remark("broken", f"Photos that cannot be used: {len(broken):,}", broken)
    if not whole:
        return Photos((), (), tuple(remarks))
    sides = np.array([size for _, size in whole])
    longer, shorter = sides.max(axis=1), sides.min(axis=1)
    long = [index for index in np.argsort(-longer / shorter, kind="stable") if longer[index] > LONGEST * shorter[index]]
    stretched = [_sized(*whole[index]) for index in long]
    title = f"Photos whose longer side is more than {LONGEST:g} times the shorter one: {len(long):,}"
    remarks += remark("long", title, stretched)
    if seen is not None:
        few = [index for index in np.argsort(shorter, kind="stable") if 2 * shorter[index] < seen]
        title = f"Photos with a side of less than half of the {seen} pixels that the model sees: {len(few):,}"
        remarks += remark("small", title, [_sized(*whole[index]) for index in few])
    return Photos((_sizes_table(sides),), (_sizes_plot(sides),), tuple(remarks))


def _sizes_table(sides: np.ndarray) -> Table:
    columns = {"width": sides[:, 0], "height": sides[:, 1], "width / height": sides[:, 0] / sides[:, 1]}
    rows: list[tuple[Cell, ...]] = [
        (name, *(round(float(np.quantile(numbers, share)), 2) for share in (0, 0.25, 0.5, 0.75, 1)))
        for name, numbers in columns.items()
    ]
    shares = ("least", "quarter", "median", "three quarters", "most")
    return Table(name="sizes", title="Sizes of photos, pixels", columns=("", *shares), rows=tuple(rows))


def _sizes_plot(sides: np.ndarray) -> Plot:
    some = sides[np.linspace(0, len(sides) - 1, min(len(sides), _POINTS)).astype(int)]
    points = Curve(label="photos", x=tuple(some[:, 0].tolist()), y=tuple(some[:, 1].tolist()), kind="markers")
    return Plot(name="sizes", title="Sizes of photos", x="width", y="height", curves=(points,), diagonal=True)


def _sized(example: Example, size: tuple[int, int]) -> Example:
    return _noted(example, f"{size[0]} x {size[1]} pixels")


def _noted(example: Example, note: str) -> Example:
    """An example with a word on it where its prediction would stand."""
    return dataclasses.replace(example, predicted=note)
