"""Files whose boxes as a whole cannot be what they seem, and what the report says of a share that is left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.report import describe
from jaxft.tasks.detection.voc import read_voc
from tests.scenes import write_voc


def read(folder: Path, boxes: list[list[float]], count: int = 0, **fields: Any) -> ObjectSource:
    """A photo of 200 x 100 with these boxes, of which the first `count`, or all, have the fields, too."""
    annotations: list[dict[str, Any]] = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": box} for number, box in enumerate(boxes)
    ]
    for entry in annotations[: count or None]:
        entry |= fields
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "disc"}],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return read_coco(file, folder)


def boxes(count: int = 20) -> list[list[float]]:
    """x, y, width, height inside the photo."""
    rng = np.random.default_rng(0)
    low = rng.integers([0, 0], [140, 60], (count, 2))
    return np.concatenate([low, rng.integers(10, 40, (count, 2))], 1).astype(float).tolist()


def test_boxes_as_shares_of_the_photo_are_an_error(tmp_path: Path) -> None:
    shares = (np.array(boxes()) / [200, 100, 200, 100]).tolist()
    with pytest.raises(UserError, match=r"annotations\.json: 20 of the 20 boxes lie within 0\.\.1.*in pixels"):
        read(tmp_path, shares)
    with pytest.raises(UserError, match=r"20 of the 30 boxes lie within 0\.\.1"):
        read(tmp_path, shares + boxes(10))


def test_an_area_of_zero_everywhere_is_named_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'20 of the 20 boxes have "area": 0.*leave the field out'):
        read(tmp_path, boxes(), area=0)


def test_corners_in_place_of_sizes_are_an_error(tmp_path: Path) -> None:
    found = np.array(boxes())
    corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], 1).tolist()
    with pytest.raises(UserError, match=r"1\d of the 20 boxes reach beyond their photo.*corners.*width, height"):
        read(tmp_path, corners)


def test_boxes_in_another_unit_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"20 of the 20 boxes are narrower or lower than a pixel"):
        read(tmp_path, [[x / 10, y / 10, width / 80, 5] for x, y, width, _ in boxes()])


@pytest.mark.parametrize(("field", "said"), [("ignore", "20 are marked ignore"), ("iscrowd", "20 are crowds")])
def test_a_split_without_an_object_to_find_is_an_error(tmp_path: Path, field: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"annotations\.json has no object to find: of 20 boxes.*{said}"):
        read(tmp_path, boxes(), **{field: 1})
    assert len(read(tmp_path, boxes(), count=19, **{field: 1})) == 1


def test_a_share_that_is_left_out_is_shouted(tmp_path: Path) -> None:
    lines = report(read(tmp_path, boxes(), count=8, area=0))
    assert "  0 boxes reached beyond their photo and are clipped; 8 are left out (40.00%): 8 with the area 0" in lines
    assert "  WARNING: training does not see 8 of the 20 boxes (8 with the area 0); is that meant?" in lines
    lines = report(read(tmp_path, boxes(), count=1, ignore=1))
    assert "  0 boxes reached beyond their photo and are clipped; 1 are left out (5.00%): 1 marked ignore" in lines
    assert "WARNING" not in "\n".join(lines)
    lines = report(read(tmp_path, [[x + 30, y + 30, 80, 60] for x, y, *_ in boxes()]))
    assert any("WARNING: 1" in line and "reach beyond their photo" in line for line in lines)


def report(source: ObjectSource) -> list[str]:
    return describe(source, 100, ((128, 256),), np.zeros(1, np.int32), 1).splitlines()


def test_voc_boxes_as_shares_are_an_error(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [("disc", 0, (2, 2, 10, 20))] * 3})
    file = root / "Annotations" / "a.xml"
    text = file.read_text()
    for old, new in (("min>2<", "min>0.1<"), ("xmax>10<", "xmax>0.5<"), ("ymax>20<", "ymax>0.75<")):
        text = text.replace(old, new)
    file.write_text(text)
    with pytest.raises(UserError, match=r"train\.txt: 3 of the 3 boxes lie within 0\.\.1"):
        read_voc(root, "train")


def test_voc_with_nothing_but_difficult_objects_is_an_error(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [("disc", 1, (2, 2, 10, 20))] * 3})
    with pytest.raises(UserError, match=r"no object to find: of 3 boxes .* 3 are crowds or difficult"):
        read_voc(root, "train")
