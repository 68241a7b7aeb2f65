"""PASCAL VOC's photos with their objects, and mistakes in its files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.tasks.detection.voc import read_voc
from tests.scenes import write_voc


def test_voc_counts_pixels_from_one(tmp_path: Path) -> None:
    objects = [("square", 0, (1, 1, 10, 20)), ("disc", 1, (5, 6, 40, 30))]
    source = read_voc(write_voc(tmp_path, {"a": objects, "b": []}), "train")
    assert source.classes == ("disc", "square")
    np.testing.assert_array_equal(source[0].objects.boxes, [[0, 0, 9, 19], [4, 5, 39, 29]])
    assert source[0].objects.labels.tolist() == [1, 0]
    assert source[0].objects.ignored.tolist() == [False, True]
    assert source[0].objects.areas.tolist() == [9 * 19, 35 * 24]
    truth = source[0].truth
    assert [entry["bbox"] for entry in truth] == [[0, 0, 9, 19], [4, 5, 35, 24]]
    assert [(entry["image_id"], entry["category_id"], entry["difficult"]) for entry in truth] == [(1, 2, 0), (1, 1, 1)]
    assert len(source[1].objects.labels) == 0
    source.check()
    ordered = read_voc(tmp_path, "train", ("square", "disc"))
    assert ordered[0].objects.labels.tolist() == [0, 1]


def broken(root: Path) -> None:
    file = root / "Annotations" / "a.xml"
    text = file.read_text()
    file.write_text(text[: len(text) // 2])


def rewritten(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = root / "Annotations" / "a.xml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return change


VOC_MISTAKES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "broken in the middle": (broken, ["Annotations", "a.xml is broken in line 4"]),
    "no file": (lambda root: (root / "Annotations" / "a.xml").unlink(), ["a.xml does not exist", "names a"]),
    "a reversed box": (rewritten("<xmax>10<", "<xmax>0<"), ["a.xml: object 1 (square) has a reversed box"]),
    "a box outside": (rewritten("<xmin>2<", "<xmin>60<"), ["a.xml: object 1 (square)", "reversed box"]),
    "a box far outside": (
        lambda root: (rewritten("<xmin>2<", "<xmin>60<")(root), rewritten("<xmax>10<", "<xmax>70<")(root)),
        ["a.xml: object 1 (square)", "outside its photo of 40 x 30"],
    ),
    "no name": (rewritten("<name>square</name>", ""), ["a.xml: object 1 has no name"]),
    "no number": (
        rewritten("<xmin>2<", "<xmin>two<"),
        ['a.xml: object 1 (square) has xmin "two"', "expected a number of pixels"],
    ),
    "listed twice": (
        lambda root: (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\na\n"),
        ["train.txt", "the image a is listed twice"],
    ),
    "no split": (lambda root: (root / "ImageSets" / "Main" / "train.txt").unlink(), ["train.txt"]),
    "another class": (rewritten("square", "ring"), ["a.xml", "class 'ring'", "square"]),
}


@pytest.mark.parametrize("name", VOC_MISTAKES)
def test_a_mistake_in_voc_is_named_with_file_and_entry(tmp_path: Path, name: str) -> None:
    write_voc(tmp_path, {"a": [("square", 0, (2, 2, 10, 20))], "b": []})
    change, parts = VOC_MISTAKES[name]
    change(tmp_path)
    with pytest.raises(UserError) as error:
        read_voc(tmp_path, "train", ("square",))
    assert not [part for part in parts if part not in str(error.value)], str(error.value)


def test_a_split_without_any_object_has_no_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to find"):
        read_voc(write_voc(tmp_path, {"a": []}), "train")
