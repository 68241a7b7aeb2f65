"""From the padded array to the photo, and to the files that pycocotools scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from jaxft.tasks.detection.found import Found, on_photo
from jaxft.tasks.detection.objects import Annotated, ObjectSource, gather
from jaxft.tasks.detection.results import folders, write_crops, write_results

ONE = Annotated(Path("none.png"), 200, 100, gather([], []), 11, "none.png")
ANSWER = {
    "boxes": np.array([[10, 5, 20, 10], [0, 0, 1, 1], [0, 0, 100, 50]], np.float32),
    "scores": np.array([0.3, 0.9, 0.8], np.float32),
    "labels": np.array([1, 0, 0]),
    "valid": np.array([True, False, True]),
    "size": np.array([50, 100]),
    "masks": np.ones((3, 28, 28), np.float32),
}


def contents(folder: Path) -> dict[str, Any]:
    return {file.name: json.loads(file.read_text()) for file in folder.glob("*.json")}


def test_what_is_found_goes_back_to_the_photo(tmp_path: Path) -> None:
    found = on_photo(ANSWER, ONE)
    np.testing.assert_allclose(found.boxes, [[0, 0, 200, 100], [20, 10, 40, 20]])
    np.testing.assert_allclose(found.scores, [0.8, 0.3])
    assert found.labels.tolist() == [0, 1]
    write_results(ObjectSource("x", ("disc", "square"), (ONE,)), {0: found}, tmp_path, masks=True)
    files = contents(tmp_path)
    assert files["images.json"]["images"] == [{"id": 11, "width": 200, "height": 100, "file_name": "none.png"}]
    assert [entry["category_id"] for entry in files["predictions.json"]] == [1, 2]
    assert [entry["bbox"] for entry in files["predictions.json"]] == [[0, 0, 200, 100], [20, 10, 20, 10]]
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        "file,class,score,left,top,right,bottom",
        f"none.png,disc,{found.scores[0]},0.0,0.0,200.0,100.0",
        f"none.png,square,{found.scores[1]},20.0,10.0,40.0,20.0",
    ]
    table = COCO(tmp_path / "images.json").loadRes(str(tmp_path / "predictions.segm.json"))
    masks = [table.annToMask(entry) for entry in table.dataset["annotations"]]
    assert masks[0][2:-2, 4:-4].all()  # the outermost cells fade, as in MMDetection
    np.testing.assert_array_equal(np.argwhere(masks[1])[[0, -1]], [[10, 20], [19, 39]])


def test_ids_are_those_of_the_annotation_file(tmp_path: Path) -> None:
    source = ObjectSource("x", ("square", "disc"), (ONE._replace(number=900), ONE), category_ids=(7, 3))
    found = Found(np.array([[1.5, 2, 4, 8]]), np.array([0.7]), np.array([0]))
    write_results(source, {1: found, 0: found._replace(labels=np.array([1]))}, tmp_path, masks=False)
    files = contents(tmp_path)
    assert files.keys() == {"predictions.json", "images.json"}
    assert files["predictions.json"] == [
        {"image_id": 900, "category_id": 3, "bbox": [1.5, 2, 2.5, 6], "score": 0.7},
        {"image_id": 11, "category_id": 7, "bbox": [1.5, 2, 2.5, 6], "score": 0.7},
    ]
    assert files["images.json"]["categories"] == [{"id": 7, "name": "square"}, {"id": 3, "name": "disc"}]


def test_crops_are_what_lies_in_the_boxes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    source = ObjectSource("x", ("disc", "../square"), (ONE._replace(image=pixels, name="a/photo.png"),))
    boxes = np.array([[10.2, 20.9, 30.1, 40], [-5, -5, 8, 8], [199.9, 99.9, 250, 250], [1, 1, 9, 9]])
    found = Found(boxes, np.array([0.9, 0.8, 0.7, 0.2]), np.array([0, 1, 0, 0]))
    assert write_crops(source, {0: found}, tmp_path, 0.5) == 3
    cut = {str(file.relative_to(tmp_path)): np.asarray(Image.open(file)) for file in tmp_path.rglob("*.png")}
    wanted = {
        "disc/0000_photo_000.png": pixels[20:40, 10:31],
        "_square/0000_photo_001.png": pixels[:8, :8],
        "disc/0000_photo_002.png": pixels[99:, 199:],
    }
    assert cut.keys() == wanted.keys()
    for name, part in wanted.items():
        np.testing.assert_array_equal(cut[name], part)


def test_classes_have_folders_of_their_own_inside_of_the_one_for_crops() -> None:
    assert folders(("cat", "a b", "a_b", "..", ".", "x" * 300)) == ["cat", "a_b_1", "a_b_2", "3", "4", "x" * 100]
