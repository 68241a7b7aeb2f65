"""Every field of COCO's JSON with every kind of value: it is read with a meaning, or refused by name."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.tasks.detection.coco import read_coco

CONTENT: dict[str, Any] = {
    "info": {"year": "2026"},
    "licenses": None,
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48, "date_captured": 5},
        {"id": 2, "file_name": "b.jpg", "width": 64, "height": 48},
    ],
    "annotations": [
        {
            "id": number,
            "image_id": 2,
            "category_id": 3,
            "bbox": [4, 5, 20, 15],
            "area": 250,
            "iscrowd": 0,
            "segmentation": [[4, 5, 24, 5, 24, 20, 4, 20]],
        }
        for number in (10, 11)
    ],
    "categories": [{"id": 3, "name": "disc", "supercategory": 1}, {"id": 7, "name": "square"}],
}
FIELDS: dict[str, tuple[Any, ...]] = {
    "images.id": ("images", 0, "id"),
    "width": ("images", 0, "width"),
    "height": ("images", 0, "height"),
    "file_name": ("images", 0, "file_name"),
    "annotations.id": ("annotations", 0, "id"),
    "image_id": ("annotations", 0, "image_id"),
    "category_id": ("annotations", 0, "category_id"),
    "bbox": ("annotations", 0, "bbox"),
    "bbox, one number": ("annotations", 0, "bbox", 1),
    "area": ("annotations", 0, "area"),
    "iscrowd": ("annotations", 0, "iscrowd"),
    "segmentation": ("annotations", 0, "segmentation"),
    "categories.id": ("categories", 1, "id"),
    "categories.name": ("categories", 1, "name"),
}
KINDS: dict[str, Any] = {
    "null": None,
    "text": "abc",
    "a number as text": "1",
    "a list": [1],
    "an object": {"a": 1},
    "NaN": float("nan"),
    "negative": -2,
    "huge": 1e12,
}
READ = {  # what has a meaning
    *((field, kind) for field in ("images.id", "annotations.id", "categories.id") for kind in ("negative", "huge")),
    *((field, kind) for field in ("file_name", "categories.name") for kind in ("text", "a number as text")),
    ("bbox, one number", "negative"),
}


def written(folder: Path, path: tuple[Any, ...], value: Any) -> Path:
    content = copy.deepcopy(CONTENT)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_any_kind_is_read_or_refused_by_name(tmp_path: Path, field: str, kind: str) -> None:
    file = written(tmp_path, FIELDS[field], KINDS[kind])
    if (field, kind) in READ:
        source = read_coco(file, tmp_path, masks=True)
        assert [len(example.objects.labels) for example in source.examples] == [0, 2]
        assert np.isfinite(source[1].objects.boxes).all()
        return
    with pytest.raises(UserError) as error:
        read_coco(file, tmp_path, masks=True)
    message = str(error.value)
    assert message.startswith(str(file))
    name = field.partition(",")[0].rpartition(".")[2]
    assert re.search(rf"\b{name}\b", message), message
    entry = {"images": "image ", "annotations": "annotation ", "categories": "category "}[FIELDS[field][0]]
    assert entry in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_outlines_that_are_not_read_may_be_anything(tmp_path: Path, kind: str) -> None:
    source = read_coco(written(tmp_path, FIELDS["segmentation"], KINDS[kind]), tmp_path)
    assert len(source[1].objects.labels) == 2


@pytest.mark.parametrize("value", [0, 1, True, False, 0.0])
def test_flags_are_zero_and_one(tmp_path: Path, value: object) -> None:
    source = read_coco(written(tmp_path, ("annotations", 0, "iscrowd"), value), tmp_path)
    assert source[1].objects.ignored.tolist() == [bool(value), False]


@pytest.mark.parametrize("value", ["0", "false", [0], 2, -1, 0.5, None])
@pytest.mark.parametrize("flag", ["iscrowd", "ignore"])
def test_other_flags_are_refused(tmp_path: Path, flag: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"annotation 10 has {flag} .*; expected 0 or 1"):
        read_coco(written(tmp_path, ("annotations", 0, flag), value), tmp_path)


@pytest.mark.parametrize("field", ["id", "area", "width"])
def test_a_number_of_thousands_of_digits_is_a_sentence(tmp_path: Path, field: str) -> None:
    place = ("images", 0, field) if field == "width" else ("annotations", 0, field)
    for digits in (400, 4200, 5000):
        file = written(tmp_path, place, 12345)
        file.write_text(file.read_text().replace("12345", "9" * digits))
        with pytest.raises(UserError, match=r"annotations\.json"):
            read_coco(file, tmp_path)
