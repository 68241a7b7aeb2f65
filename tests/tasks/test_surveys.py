"""What is odd in a split is found by the task that owns it, each oddity planted once."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxft.config import Classification, Data, Detection
from jaxft.data.csv_targets import TargetSource
from jaxft.reporting.survey import Remark, Survey
from jaxft.tasks.classification.survey import survey as survey_labels
from jaxft.tasks.multilabel.survey import survey as survey_labels_each
from jaxft.tasks.regression.survey import survey as survey_numbers

SIZES = [(40, 30)] * 12 + [(160, 40)]


def paint(file: Path, size: tuple[int, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(file)


def by_name(found: Survey) -> dict[str, Remark]:
    assert len({remark.name for remark in found.remarks}) == len(found.remarks)
    return {remark.name: remark for remark in found.remarks}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the class cat 12 photos and a broken one, of the class dog one that is four times as wide as high."""
    root = tmp_path_factory.mktemp("photos")
    for number, size in enumerate(SIZES):
        paint(root / "train" / ("dog" if number == 12 else "cat") / f"{number:02}.png", size)
    (root / "train" / "cat" / "broken.png").write_bytes(b"nothing")
    return root


def test_classes_and_photos(photos: Path) -> None:
    task = Classification().task()
    dataset = task.dataset(Data(root=str(photos)), "train", ("cat", "dog"))
    found = task.survey(dataset)
    classes, sizes = found.tables
    assert classes.rows == (("cat", 13, round(13 / 14, 4)), ("dog", 1, round(1 / 14, 4)))
    assert sizes.rows[0] == ("width", 40, 40, 40, 40, 160)
    remarks = by_name(found)
    assert {name: remark.count for name, remark in remarks.items()} == {
        "broken": 1,
        "long": 1,
        "small": 13,  # less than half of 224
        "unbalanced": 0,
    }
    assert "broken.png is not an image" in remarks["broken"].examples[0].predicted
    assert (remarks["long"].examples[0].name, remarks["long"].examples[0].truth) == ("dog/12.png", "dog")
    assert remarks["unbalanced"].title == "cat has 13 examples, dog only 1"
    assert task.stored(dataset, 13) == photos / "train" / "dog" / "12.png"


def test_a_split_of_broken_photos_has_a_survey(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    source = TargetSource(tmp_path, ("x",), ["cat/a.png", "dog/a.png"], np.array([[1.0], [2.0]], np.float32))
    assert by_name(survey_numbers(source, 32))["broken"].count == 2


def test_labels_and_numbers(photos: Path) -> None:
    files = [f"train/cat/{number:02}.png" for number in range(12)]
    labels = np.zeros((12, 3), np.float32)
    labels[:11, 0] = labels[0, 1] = 1
    found = survey_labels_each(TargetSource(photos, ("sun", "rain", "snow"), files, labels), 32)
    assert [row[:2] for row in found.tables[0].rows] == [("sun", 11), ("rain", 1), ("snow", 0)]
    assert [remark.title for remark in found.remarks] == [
        "Photos without a label: 1",
        "Without photos: snow",
        "sun has 11 photos, rain only 1",
    ]
    assert (found.plots[0].curves[0].x, found.plots[0].curves[0].y) == ((0, 1, 2), (1, 10, 1))

    numbers = np.stack([np.arange(12.0), np.full(12, 7.0)], axis=1).astype(np.float32)
    numbers[3, 0] = 1e4
    found = survey_numbers(TargetSource(photos, ("length", "age"), files, numbers), 32)
    remarks = by_name(found)
    assert [example.index for example in remarks["far"].examples] == [3]
    assert "age is always 7" in remarks["constant"].title
    assert found.tables[0].rows[1][1:4] == (7.0, 0.0, 7.0)
    assert sum(height or 0 for height in found.plots[0].curves[0].y) == 12


BOXES = {  # by photo, boxes as x, y, width, height and their class
    "plain": [((5, 5, 10, 10), 0), ((20, 5, 10, 10), 1)],
    "tiny": [((5, 5, 3, 10), 0), ((20, 5, 10, 10), 0)],
    "huge": [((0, 0, 40, 30), 0)],
    "double": [((5, 5, 20, 20), 0), ((5, 5, 20, 19), 0), ((30, 20, 5, 5), 0)],
    "conflicting": [((5, 5, 20, 20), 0), ((5, 5, 20, 20), 1)],
    "outside": [((30, 5, 15, 10), 0)],
    "none": [],
}


def test_boxes(tmp_path: Path) -> None:
    annotations = []
    for number, (name, boxes) in enumerate(BOXES.items()):
        paint(tmp_path / "train" / f"{name}.png", (40, 30))
        for box, label in boxes:
            annotations.append({"id": len(annotations), "image_id": number, "category_id": label, "bbox": box})
    images = [{"id": i, "file_name": f"{name}.png", "width": 40, "height": 30} for i, name in enumerate(BOXES)]
    categories = [{"id": 0, "name": "cell"}, {"id": 1, "name": "hole"}]
    (tmp_path / "annotations").mkdir()
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    (tmp_path / "train" / "plain.png").unlink()
    task = Detection().task()
    found = task.survey(task.dataset(Data(source="coco", root=str(tmp_path)), "train", ()))
    remarks = by_name(found)
    shown = {name: [(one.name, len(one.objects)) for one in remark.examples] for name, remark in remarks.items()}
    assert shown == {
        "broken": [("plain.png", 2)],
        "tiny": [("tiny.png", 1)],
        "huge": [("huge.png", 1)],
        "double": [("double.png", 2)],
        "conflicting": [("conflicting.png", 2)],
        "outside": [("outside.png", 1)],
        "none": [("none.png", 0)],
    }
    assert remarks["double"].title == "Boxes nearly where another one of their class is: 2"
    assert [row[:2] + row[3:4] for row in found.tables[0].rows] == [("cell", 9, 6), ("hole", 2, 2)]


def test_the_survey_of_labels_needs_no_more_than_a_source() -> None:
    class Pixels:
        classes = ("a", "b")

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> object:
            from jaxft.data.source import Example

            return Example(np.zeros((8, 8, 3), np.uint8), index, str(index))

        def check(self) -> None: ...

    found = survey_labels(Pixels(), 8)  # type: ignore[arg-type]
    assert found.truths == ("a", "b")
    assert found.remarks == ()
