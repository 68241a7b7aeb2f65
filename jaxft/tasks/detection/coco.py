"""COCO's JSON of photos and objects: boxes, crowds, polygons and run-length codes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxft.data.problems import refuse
from jaxft.errors import UserError
from jaxft.tasks.detection.objects import Annotated, Entry, ObjectSource, Shape, box_problem, gather

_LISTS = ("images", "annotations", "categories")


def read_coco(
    file: Path, photos: Path, classes: tuple[str, ...] = (), *, masks: bool = False, complete: bool = False
) -> ObjectSource:
    """Read one split.

    Category ids may have gaps; labels count the categories in the order of their ids, or of `classes`. As in
    MMDetection, annotations marked `ignore` and boxes narrower or lower than a pixel are left out, and boxes are
    clipped to the photo.

    Args:
        file: the JSON file.
        photos: the folder that its file names are relative to; no photo is opened.
        classes: names of the categories to read; the others are left out. Empty for all.
        masks: whether to read the outlines, too.
        complete: whether a category that `classes` does not name is an error.

    Raises:
        UserError: the file is missing, not JSON or not COCO's; an image is listed twice; an annotation is of an image
            or a category that is not listed, or its box or outline is not one; a class is missing.
    """
    content = _load(file)
    names, labels = _labels(file, content["categories"], classes, complete)
    images: dict[int, dict[str, Any]] = {}
    problems, seen = [], set()
    for index, image in enumerate(content["images"]):
        if missing := _missing(image, ("id", "file_name", "width", "height")):
            problems.append(f"image number {index + 1} of the list has no {missing}")
            continue
        if image["id"] in images or image["file_name"] in seen:
            problems.append(f"the image {image['file_name']} (id {image['id']}) is listed twice")
        images[image["id"]] = image
        seen.add(image["file_name"])
    rows: dict[int, list] = {number: [] for number in images}
    truth: dict[int, list[Entry]] = {number: [] for number in images}
    outside = flat = 0
    for index, annotation in enumerate(content["annotations"]):
        if missing := _missing(annotation, ("image_id", "category_id", "bbox")):
            problems.append(f"annotation number {index + 1} of the list has no {missing}")
            continue
        entry = f"annotation {annotation.get('id', f'number {index + 1}')}"
        image = images.get(annotation["image_id"], {})
        if problem := _problem(annotation, image, names, masks):
            problems.append(f"{entry} {problem}")
            continue
        truth[annotation["image_id"]].append(
            annotation if masks else {key: value for key, value in annotation.items() if key != "segmentation"}
        )
        if annotation["category_id"] not in labels or annotation.get("ignore"):
            continue
        x, y, width, height = annotation["bbox"]
        if width < 1 or height < 1 or annotation.get("area", 1) <= 0:
            flat += 1
            continue
        corners = (max(x, 0), max(y, 0), min(x + width, image["width"]), min(y + height, image["height"]))
        # Annotations are rounded to hundredths of a pixel, which is not worth a count.
        outside += min(x, y, image["width"] - x - width, image["height"] - y - height) < -0.05
        area = annotation.get("area", width * height)
        row = (corners, labels[annotation["category_id"]], bool(annotation.get("iscrowd")), area)
        rows[annotation["image_id"]].append((row, annotation.get("segmentation")))
    refuse(str(file), problems)
    examples = tuple(
        Annotated(
            image=photos / image["file_name"],
            width=int(image["width"]),
            height=int(image["height"]),
            objects=gather([row for row, _ in rows[number]], [shape for _, shape in rows[number]] if masks else ()),
            number=number,
            name=image["file_name"],
            truth=tuple(truth[number]),
        )
        for number, image in images.items()
    )
    ids = tuple(sorted(labels, key=labels.__getitem__))
    return ObjectSource(str(file), classes or tuple(names.values()), examples, outside, flat, ids)


def _load(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no annotation file {file}; check --data.root and --data.annotation-file.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name), list) or any(not isinstance(item, dict) for item in content[name])
        for name in _LISTS
    ):
        raise UserError(f"{file} is not in COCO's format: expected an object with the lists {', '.join(_LISTS)}.")
    return content


def _labels(
    file: Path, categories: Sequence[Mapping[str, Any]], classes: tuple[str, ...], complete: bool
) -> tuple[dict[int, str], dict[int, int]]:
    """The names of all category ids, in the order of the ids; and the labels of those that are read."""
    if missing := [number for number, item in enumerate(categories, 1) if _missing(item, ("id", "name"))]:
        raise UserError(f"{file}: category number {missing[0]} of the list has no id or no name.")
    names = {item["id"]: str(item["name"]) for item in sorted(categories, key=lambda item: item["id"])}
    if len(names) != len(categories) or len(set(names.values())) != len(names):
        raise UserError(f"{file}: two of its categories have the same id or the same name.")
    if not names:
        raise UserError(f"{file} lists no categories, so there is nothing to find.")
    there = set(names.values())
    if classes and (there != set(classes) if complete else not there.issuperset(classes)):
        raise UserError(
            f"{file} has the classes {', '.join(names.values())}, but {', '.join(classes)} are expected; every split, "
            "the checkpoint and --data.classes must use the same names."
        )
    order = classes or tuple(names.values())
    return names, {number: order.index(name) for number, name in names.items() if name in order}


def _missing(entry: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(key for key in keys if key not in entry)


def _problem(
    annotation: Mapping[str, Any], image: Mapping[str, Any], names: Mapping[int, str], masks: bool
) -> str | None:
    if not image:
        return f"is of the image {annotation['image_id']}, which is not listed"
    if annotation["category_id"] not in names:
        return f"is of the category {annotation['category_id']}, which is not listed"
    box = annotation["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        return f"has the box {box}; expected x, y, width, height"
    x, y, width, height = box
    if problem := box_problem((x, y, x + width, y + height), image["width"], image["height"]):
        return f"({image['file_name']}) {problem}"
    problem = _shape_problem(annotation.get("segmentation"), image) if masks else None
    return f"({image['file_name']}) {problem}" if problem else None


def _shape_problem(shape: Shape | None, image: Mapping[str, Any]) -> str | None:
    if not shape:
        return "has no segmentation, but the model needs masks"
    if isinstance(shape, dict):
        size = [image["height"], image["width"]]
        wrong = "counts" not in shape or list(shape.get("size", ())) != size
        return f"has a run-length code that is not of its photo's size {size}" if wrong else None
    for polygon in shape:
        if not isinstance(polygon, list) or not all(isinstance(value, int | float) for value in polygon):
            return "has a segmentation that is neither polygons nor a run-length code"
        if len(polygon) % 2 or len(polygon) < 6:
            return f"has a polygon of {len(polygon) / 2:g} points; an outline needs at least 3"
    return None
