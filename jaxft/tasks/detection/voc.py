"""PASCAL VOC's XML of photos and objects.

VOC counts pixels from 1, and its corners are the first and the last pixel of an object. Boxes here are MMDetection's
(`XMLDataset`): whole numbers, cut off after the point, minus 1, so that the `bbox` x, y, width, height of an entry of
`Annotated.truth` is xmin - 1, ymin - 1, xmax - xmin, ymax - ymin. MMDetection's `VOCMetric` compares such corners by
VOC's rule, which adds the last pixel again: an intersection from x0 to x1 is x1 - x0 + 1 wide.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxft.data.photo_check import file_size
from jaxft.data.problems import refuse
from jaxft.errors import UserError
from jaxft.tasks.detection.boxes import box_problem, refuse_shares, usable
from jaxft.tasks.detection.objects import Annotated, Entry, ObjectSource, grouped
from jaxft.tasks.detection.voc_file import Described, describe
from jaxft.tasks.detection.voc_photos import find_photos


class _Boxes(NamedTuple):
    """The objects of all photos of a split.

    Attributes:
        names: of the objects' classes.
        photos: int `[N]`, the position of each object's photo.
        numbers: int `[N]`, the object's own in its file, from 1.
        written: float `[N, 4]`, corners as the files have them.
        boxes: float `[N, 4]`, x, y, width, height in MMDetection's coordinates.
        difficult: bool `[N]`.
    """

    names: tuple[str, ...]
    photos: np.ndarray
    numbers: np.ndarray
    written: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray


def read_voc(root: Path, split: str, classes: tuple[str, ...] = ()) -> ObjectSource:
    """Read one split: `root/ImageSets/Main/SPLIT.txt` names the photos, `root/Annotations` has an XML file for each.

    Difficult objects are neither to be found nor background; boxes narrower or lower than a pixel are not trained on.
    The photo is that of the annotation's own name, see `jaxft.tasks.detection.voc_photos`.

    Args:
        classes: names in the order of the labels; objects of other names are an error. Empty for all names that the
            split has, sorted.

    Raises:
        UserError: the split or a file is missing, a photo is named twice, an XML file is broken or lacks an element or
            has a value in it that cannot be one, a box is reversed or outside its photo, an object is of another class,
            or the boxes cannot be meant as they are.
    """
    listing, folder = root / "ImageSets" / "Main" / f"{split}.txt", root / "Annotations"
    stems = _stems(listing)
    problems: list[str] = []
    described = [_described(folder / f"{stem}.xml", stem, problems) for stem in stems]
    refuse(str(folder), problems)
    photos = find_photos(root / "JPEGImages", stems, [found.filename for found in described], problems)
    refuse(str(folder), problems)
    sizes = [_size(stem, found, photo, problems) for stem, found, photo in zip(stems, described, photos, strict=True)]
    refuse(str(folder), problems)
    found = _boxes(described)
    names = classes or tuple(sorted(set(found.names)))
    if not names:
        raise UserError(f"No object is annotated in the split {split!r} of {root}, so there is nothing to find.")
    refuse_shares(str(listing), found.written)
    room = np.array(sizes, np.float64)[found.photos]
    refuse(str(folder), list(_problems(stems, found, room, names)))

    areas = found.boxes[:, 2] * found.boxes[:, 3]
    nothing = np.zeros(len(areas), bool)
    left = usable(str(listing), found.boxes, room, areas, nothing, found.difficult)
    labels = np.array([names.index(name) for name in found.names], np.int64)
    rows = (found.photos, left.corners, labels, found.difficult, areas)
    owners, *arrays = (array[left.kept] for array in rows)
    examples = tuple(
        Annotated(photo, *size, objects, number, photo.name, entries)
        for number, (photo, size, objects, entries) in enumerate(
            zip(photos, sizes, grouped(owners, len(stems), *arrays), _truth(found, labels, len(stems)), strict=True), 1
        )
    )
    ids = tuple(range(1, len(names) + 1))
    return ObjectSource(str(listing), names, examples, left.outside, left.flat, ids, left.no_area)


def _stems(listing: Path) -> list[str]:
    try:
        lines = [line.split() for line in listing.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise UserError(f"There is no list of the split, {listing}; check --data.root and the split.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{listing} cannot be read ({error}).") from error
    stems = [words[0] for words in lines if words]
    if not stems:
        raise UserError(f"{listing} names no photo.")
    if twice := [stem for stem, count in Counter(stems).items() if count > 1]:
        raise UserError(f"{listing}: the image {twice[0]} is listed twice.")
    return stems


def _described(file: Path, stem: str, problems: list[str]) -> Described:
    try:
        found, mistakes = describe(file)
        problems += [f"{file.name}{mistake}" for mistake in mistakes]
        return found
    except FileNotFoundError:
        problems.append(f"{file.name} does not exist, but the split names {stem}")
    except UserError as error:
        problems.append(f"{file.name} {error}")
    except (OSError, ValueError, LookupError) as error:  # an unknown encoding is a LookupError
        problems.append(f"{file.name} cannot be read ({error})")
    return Described(None, None, ())


def _size(stem: str, found: Described, photo: Path, problems: list[str]) -> tuple[int, int]:
    """Width and height: what the file says, or the photo's where it says nothing."""
    try:
        return found.size or file_size(photo)
    except UserError as error:
        problems.append(f"{stem}.xml: {error}")
        return 0, 0


def _boxes(described: Sequence[Described]) -> _Boxes:
    things = [(photo, thing) for photo, found in enumerate(described) for thing in found.things]
    written = np.array([thing.corners for _, thing in things], np.float64).reshape(-1, 4)
    corners = np.trunc(written) - 1
    return _Boxes(
        tuple(thing.name for _, thing in things),
        np.array([photo for photo, _ in things], np.int64),
        np.array([thing.number for _, thing in things], np.int64),
        written,
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1),
        np.array([thing.difficult for _, thing in things], bool),
    )


def _problems(stems: Sequence[str], found: _Boxes, room: np.ndarray, names: tuple[str, ...]) -> Iterator[str]:
    for name, photo, number, (x, y, width, height), size in zip(
        found.names, found.photos, found.numbers, found.boxes.tolist(), room.tolist(), strict=True
    ):
        problem = box_problem((x, y, x + width, y + height), *size)
        if name not in names:
            problem = f"is of the class {name!r}, but only {', '.join(names)} are expected"
        if problem:
            yield f"{stems[photo]}.xml: object {number} ({name}) {problem}"


def _truth(found: _Boxes, labels: np.ndarray, count: int) -> list[tuple[Entry, ...]]:
    """Every object of each photo in COCO's form, with `difficult`; category ids count the names from 1."""
    entries: list[list[Entry]] = [[] for _ in range(count)]
    for photo, box, label, difficult in zip(
        found.photos, found.boxes.astype(int).tolist(), labels.tolist(), found.difficult.tolist(), strict=True
    ):
        entry = {"image_id": int(photo) + 1, "category_id": label + 1, "bbox": box, "area": box[2] * box[3]}
        entries[photo].append(entry | {"iscrowd": 0, "difficult": int(difficult)})
    numbers = iter(range(1, len(labels) + 1))
    return [tuple({"id": next(numbers)} | entry for entry in photo) for photo in entries]
