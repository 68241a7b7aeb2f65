"""From the padded array to the photo, and to the files that pycocotools scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from jaxft.tasks.detection.found import Found, on_photo
from jaxft.tasks.detection.objects import Annotated, ObjectSource, gather
from jaxft.tasks.detection.results import write_results

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
    return {file.name: json.loads(file.read_text()) for file in folder.iterdir()}


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
