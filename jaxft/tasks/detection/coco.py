"""COCO's JSON of photos and objects: boxes, crowds, polygons and run-length codes."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxft.data.problems import refuse
from jaxft.errors import UserError
from jaxft.parts import class_range
from jaxft.tasks.detection.boxes import box_problem, refuse_shares, usable
from jaxft.tasks.detection.coco_file import CocoFile, load
from jaxft.tasks.detection.objects import Annotated, Entry, ObjectSource, grouped
from jaxft.tasks.detection.outlines import outline_problem


def read_coco(
    file: Path,
    photos: Path,
    classes: tuple[str, ...] = (),
    *,
    masks: bool = False,
    complete: bool = False,
    old: int = 0,
) -> ObjectSource:
    """Read one split.

    Category ids may have gaps; labels count the categories in the order of their ids, or of `classes`. As in
    MMDetection, annotations marked `ignore`, boxes narrower or lower than a pixel and objects with an area of 0 are
    not trained on, and boxes are clipped to the photo. `Annotated.truth` keeps them all as they are.

    Args:
        file: the JSON file.
        photos: the folder that its file names are relative to; no photo is opened.
        classes: names of the categories to read, or ranges of them, such as `0:40`, in the order of their ids; the
            others are left out. Empty for all.
        masks: whether to read the outlines, too.
        complete: whether a category that `classes` does not name is an error.
        old: the first so many of `classes` may be missing in the file.

    Raises:
        UserError: the file is missing or not COCO's (see `jaxft.tasks.detection.coco_file.load`), a class is missing, a
            box or an outline is none or lies outside its photo, or its boxes cannot be meant as they are.
    """
    content, where = load(file), str(file)
    classes = _named(file, content, classes)
    labels = _labels(file, content, classes, complete, old)
    positions = {image["id"]: position for position, image in enumerate(content.images)}
    sizes = np.array([[image["width"], image["height"]] for image in content.images], np.float64)
    boxes = np.array([entry["bbox"] for entry in content.annotations], np.float64).reshape(-1, 4)
    owners = np.array([positions[entry["image_id"]] for entry in content.annotations], np.int64)
    refuse_shares(where, boxes)
    refuse(where, list(_problems(content, boxes, sizes[owners], owners, masks)))

    read = np.array([entry["category_id"] in labels for entry in content.annotations], bool)
    some = [entry for entry, chosen in zip(content.annotations, read, strict=True) if chosen]
    areas = np.array([entry["area"] for entry in some], np.float64)
    crowd, ignore = (np.array([bool(entry.get(flag)) for entry in some], bool) for flag in ("iscrowd", "ignore"))
    boxes, owners = boxes[read], owners[read]
    left = usable(where, boxes, sizes[owners], areas, ignore, crowd)

    kept = np.flatnonzero(left.kept)
    label = np.array([labels[some[index]["category_id"]] for index in kept], np.int64)
    objects = grouped(owners[kept], len(content.images), left.corners[kept], label, crowd[kept], areas[kept])
    if masks:
        shapes: list[list] = [[] for _ in objects]
        for index in kept:
            shapes[owners[index]].append(some[index]["segmentation"])
        objects = [found._replace(shapes=tuple(rows)) for found, rows in zip(objects, shapes, strict=True)]
    truth: list[list[Entry]] = [[] for _ in objects]
    for entry in content.annotations:
        truth[positions[entry["image_id"]]].append(entry if masks else _without_outline(entry))
    examples = tuple(
        Annotated(
            image=photos / image["file_name"],
            width=int(image["width"]),
            height=int(image["height"]),
            objects=objects[position],
            number=image["id"] if isinstance(image["id"], str) else int(image["id"]),
            name=image["file_name"],
            truth=tuple(truth[position]),
        )
        for position, image in enumerate(content.images)
    )
    return ObjectSource(
        where,
        classes or tuple(category["name"] for category in content.categories),
        examples,
        left.outside,
        left.flat,
        _ids(labels, len(classes or content.categories), [category["id"] for category in content.categories]),
        left.no_area,
        left.set_aside,
    )


def _named(file: Path, content: CocoFile, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes with the names of the file's categories in the place of ranges."""
    names, found = [category["name"] for category in content.categories], list[str]()
    for name in classes:
        if (part := class_range(name)) is None or name in names:
            found.append(name)
            continue
        first, last = part.start or 0, len(names) if part.stop is None else part.stop
        if not 0 <= first < last <= len(names):
            raise UserError(
                f"data.classes has the range {name}, but {file} has {len(names)} categories, numbered from 0; the last "
                f"of a range is left out, so that :{len(names)} means all."
            )
        found += names[first:last]
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise UserError(f"data.classes means {twice[0]} twice; let its names and ranges have no class in common.")
    return tuple(found)


def _ids(labels: dict[int, int], count: int, taken: Sequence[int]) -> tuple[int, ...]:
    """The category id of each label; for a class that the file lacks one that none of its categories has."""
    free = itertools.count(max(taken, default=0) + 1)
    ids = {label: int(number) for number, label in labels.items()}
    return tuple(ids[label] if label in ids else next(free) for label in range(count))


def _labels(file: Path, content: CocoFile, classes: tuple[str, ...], complete: bool, old: int) -> dict[int, int]:
    """The labels of the category ids that are read."""
    names = [category["name"] for category in content.categories]
    unknown, missing = set(names) - set(classes), set(classes[old:]) - set(names)
    if classes and (missing or (complete and unknown)):
        raise UserError(
            f"{file} has the classes {', '.join(names)}, but {', '.join(classes)} are expected; every split, "
            "the checkpoint and --data.classes must use the same names."
        )
    order = classes or tuple(names)
    return {
        category["id"]: order.index(category["name"]) for category in content.categories if category["name"] in order
    }


def _problems(
    content: CocoFile, boxes: np.ndarray, photos: np.ndarray, owners: np.ndarray, masks: bool
) -> Iterator[str]:
    """What is wrong with the boxes and the outlines, in the order of the file."""
    for entry, (x, y, width, height), photo, owner in zip(
        content.annotations, boxes.tolist(), photos.tolist(), owners, strict=True
    ):
        problem = box_problem((x, y, x + width, y + height), *photo)
        if masks and not problem:
            problem = outline_problem(entry.get("segmentation"), int(photo[0]), int(photo[1]))
        if problem:
            yield f"annotation {entry['id']} ({content.images[owner]['file_name']}) {problem}"


def _without_outline(entry: Entry) -> Entry:
    return {key: value for key, value in entry.items() if key != "segmentation"}
