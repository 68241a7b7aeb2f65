"""COCO's JSON file, every field of which is what it must be: also LVIS', Objects365's and Open Images' in that form."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import PIL.Image
import pydantic
import pydantic_core

from jaxft.data.problems import refuse
from jaxft.errors import UserError
from jaxft.tasks.detection.entries import FARTHEST, Form, Number, Side, Text, Whole, found

Entry = dict[str, Any]
_Field = pydantic.Field


class _Image(pydantic.BaseModel):
    id: Whole | Text = _Field(description="a whole number, or text in all images and annotations")
    width: Side = _Field(description="a whole number of pixels from 1 to 1,000,000")
    height: Side = _Field(description="a whole number of pixels from 1 to 1,000,000")
    file_name: Text = _Field(default="-", description="the photo's name, as text")
    coco_url: str | None = _Field(default=None, description="an address, as text")


class _Annotation(pydantic.BaseModel):
    id: Whole = _Field(default=0, description="a whole number")
    image_id: Whole | Text = _Field(description="the id of an image")
    category_id: Whole = _Field(description="the id of a category, a whole number")
    bbox: list[Number] = _Field(
        min_length=4,
        max_length=4,
        strict=True,
        description=f"x, y, width, height: four finite numbers of pixels, none beyond {FARTHEST:,}",
    )
    area: float = _Field(
        default=0, strict=True, allow_inf_nan=False, ge=0, le=1e10, description="a number of pixels from 0 to 1e10"
    )
    iscrowd: Literal[0, 1] = _Field(default=0, description="0 or 1")
    ignore: Literal[0, 1] = _Field(default=0, description="0 or 1")


class _Category(pydantic.BaseModel):
    id: Whole = _Field(description="a whole number")
    name: Text = _Field(description="text")


_FORMS = {"images": ("image", Form(_Image)), "annotations": ("annotation", Form(_Annotation))}
_FORMS |= {"categories": ("category", Form(_Category))}


class CocoFile(NamedTuple):
    """The lists of a file, its entries unchanged but for what they leave out.

    Attributes:
        images: each with `file_name`; ids and names are unique, the ids all numbers or all text.
        annotations: each with a unique `id`, and `area` and `iscrowd`, which are width x height and 0 where the file
            has none; of images and categories that are listed. `segmentation` may be anything.
        categories: in the order of their ids; ids and names are unique.
    """

    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]


def load(file: Path) -> CocoFile:
    """Reads a file.

    Raises:
        UserError: the file is missing, not JSON, not COCO's, or a field is missing or of the wrong kind; an id is used
            twice, or one is meant that is not there. Up to 20 mistakes are named, each with its entry and field.
    """
    content = _parse(file)
    problems = [
        f"{_name(kind, entry, number)} {problem}"
        for name, (kind, form) in _FORMS.items()
        for number, entry in enumerate(content[name], 1)
        if (problem := form.problem(entry))
    ]
    refuse(str(file), problems)
    images, annotations = content["images"], content["annotations"]
    categories = sorted(content["categories"], key=lambda category: category["id"])
    if not categories:
        raise UserError(f"{file} lists no categories, so there is nothing to find.")
    if not images:
        raise UserError(f"{file} lists no images, so there is nothing to train on or to evaluate.")
    refuse(str(file), [*_image_problems(images), *_category_problems(categories)])
    refuse(str(file), list(_annotation_problems(annotations, images, categories)))
    free = count(1 + max((int(entry["id"]) for entry in annotations if "id" in entry), default=0))
    completed = [_completed(entry, free) for entry in annotations]
    return CocoFile([image | {"file_name": _file_name(image)} for image in images], completed, categories)


def _parse(file: Path) -> dict[str, list[Any]]:
    if file.suffix.lower() == ".csv":
        raise UserError(
            f"{file} is a CSV file, such as Open Images' own annotations, but the data source coco reads JSON. Convert "
            "it: an image with width and height for each ImageID, boxes in pixels (XMin times width and so on), "
            "IsGroupOf as iscrowd."
        )
    try:
        content = _decoded(file.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"There is no annotation file {file}; check --data.root and --data.annotation-file.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}).") from error
    lists = ", ".join(_FORMS)
    if not isinstance(content, dict):
        results = isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]
        reason = "it holds results, with scores, not annotations" if results else f"it is {found(content)}"
        raise UserError(f"{file} is not in COCO's format: {reason}; expected an object with the lists {lists}.")
    if "annotations" not in content and "images" in content:
        raise UserError(
            f"{file} is not in COCO's format: it has no list annotations, as files of test photos without ground truth "
            "have none. Name a split with annotations (--data.train, --data.validation); jaxft.predict finds objects "
            "in photos without any."
        )
    for name in _FORMS:
        if name not in content:
            raise UserError(f"{file} is not in COCO's format: it has no {name}; expected the lists {lists}.")
        if not isinstance(content[name], list):
            raise UserError(
                f"{file} is not in COCO's format: {name} is {found(content[name])}; expected the lists {lists}."
            )
    return content


def _decoded(text: bytes) -> Any:
    try:
        return pydantic_core.from_json(text)
    except (
        ValueError
    ):  # it is several times as fast as json, which says better what is wrong and reads a few texts more
        return json.loads(text)


def _name(kind: str, entry: object, number: int) -> str:
    """What to call an entry: by its id where it has one that can be one, or by its position, from 1."""
    number_or_text = entry.get("id") if isinstance(entry, dict) else None
    if isinstance(number_or_text, int | str) and not isinstance(number_or_text, bool):
        return f"{kind} {found(number_or_text).removesuffix(' (text)')}"
    return f"{kind} number {number} of the list"


def _file_name(image: Entry) -> str | None:
    """The photo's name: LVIS gives the last two parts of the address instead, or that of COCO 2014."""
    name: str | None = image.get("file_name")
    if name is None and image.get("coco_url"):
        return "/".join(image["coco_url"].split("/")[-2:])
    if name is not None and "neg_category_ids" in image and name.startswith("COCO"):
        return name[-len("000000000000.jpg") :]
    return name


def _image_problems(images: Sequence[Entry]) -> Iterator[str]:
    kinds = {isinstance(image["id"], str): found(image["id"]) for image in images}
    if len(kinds) > 1:
        yield f"image {kinds[True]} has an id of another kind than image {kinds[False]}; expected one kind in all"
    ids, names = set(), set()
    most = PIL.Image.MAX_IMAGE_PIXELS or math.inf
    for image in images:
        name = _file_name(image)
        if name is None:
            yield f"image {image['id']} has no file_name"
            continue
        if image["id"] in ids or name in names:
            yield f"the image {name} (id {image['id']}) is listed twice"
        if image["width"] * image["height"] > most:
            yield f"the image {name} has {image['width']} x {image['height']} pixels, more than {most:,}"
        ids.add(image["id"])
        names.add(name)


def _category_problems(categories: Sequence[Entry]) -> Iterator[str]:
    ids, names = ({category[key] for category in categories} for key in ("id", "name"))
    if not len(ids) == len(names) == len(categories):
        yield "two of its categories have the same id or the same name"


def _annotation_problems(
    annotations: Sequence[Entry], images: Sequence[Entry], categories: Sequence[Entry]
) -> Iterator[str]:
    image_ids, category_ids = {image["id"] for image in images}, {category["id"] for category in categories}
    text = isinstance(images[0]["id"], str)
    seen: dict[object, int] = {}
    for number, annotation in enumerate(annotations, 1):
        entry, image, category = _name("annotation", annotation, number), annotation["image_id"], "category_id"
        if isinstance(image, str) != text:
            kinds = ("text", "numbers") if text else ("numbers", "text")
            yield f"{entry} has image_id {found(image)}, but the ids of the images are {kinds[0]}, not {kinds[1]}"
        elif image not in image_ids:
            yield f"{entry} is of the image {found(image)}, which is not listed (image_id)"
        elif annotation[category] not in category_ids:
            yield f"{entry} is of the category {annotation[category]}, which is not listed ({category})"
        elif (first := seen.setdefault(annotation.get("id", entry), number)) != number:
            yield f"annotations number {first} and {number} of the list have the same id, {annotation['id']}"


def _completed(entry: Entry, free: Iterator[int]) -> Entry:
    """With what pycocotools needs and the file may leave out."""
    if "id" in entry and "area" in entry and "iscrowd" in entry:
        return entry
    _, _, width, height = entry["bbox"]
    rest: Entry = {"area": width * height, "iscrowd": 0}
    return {"id": next(free)} | rest | entry if "id" not in entry else rest | entry
