"""COCO's and VOC's photos with objects: what is read, and what is said of mistakes."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxft.config import Data
from jaxft.errors import UserError
from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.objects import split_objects
from jaxft.tasks.detection.scene import bitmaps
from tests.scenes import CLASSES, IDS, run_lengths, write_coco, write_json

Content = dict[str, Any]


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return write_coco(tmp_path, [0, 1, 3], "train")


def read(root: Path, content: object, **options: Any) -> Any:
    return read_coco(write_json(root, "train", content), root / "photos", **options)


# COCO


def test_coco_gives_photos_with_their_objects(tmp_path: Path, content: Content) -> None:
    source = read(tmp_path, content, masks=True)
    assert source.classes == CLASSES
    assert [len(example.objects.labels) for example in source.examples] == [0, 1, 3]
    assert [example.number for example in source.examples] == [100, 103, 106]
    example = source[2]
    entries = [entry for entry in content["annotations"] if entry["image_id"] == 106]
    corners = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in entries)]
    np.testing.assert_array_equal(example.objects.boxes, np.array(corners, np.float32))
    assert example.objects.labels.tolist() == [IDS.index(entry["category_id"]) for entry in entries]
    assert example.objects.ignored.tolist() == [False, False, True]
    assert example.objects.areas.tolist() == [entry["area"] for entry in entries]
    assert (example.width, example.height) == (48, 64)
    assert example.pixels().shape == (64, 48, 3)
    filled = bitmaps(example.objects.shapes, 64, 48)
    for mask, (x0, y0, x1, y1) in zip(filled, corners, strict=True):
        expected = np.zeros((64, 48), np.uint8)
        expected[y0:y1, x0:x1] = 1
        np.testing.assert_array_equal(mask, expected)
    source.check()
    assert source[0].objects.boxes.shape == (0, 4)


def test_run_length_codes_of_every_kind_are_one_mask() -> None:
    mask = np.zeros((9, 7), np.uint8)
    mask[2:6, 1:4] = 1
    mask[0, 0] = 1
    from pycocotools import mask as coco_mask

    packed = coco_mask.encode(np.asfortranarray(mask))
    text = {"size": packed["size"], "counts": packed["counts"].decode()}
    found = bitmaps((run_lengths(mask), text), 9, 7)
    np.testing.assert_array_equal(found, np.stack([mask, mask]))


def test_two_polygons_are_one_object() -> None:
    squares = [[0, 0, 3, 0, 3, 3, 0, 3], [5, 5, 8, 5, 8, 8, 5, 8]]
    assert bitmaps((squares,), 10, 10).sum() == 18


def test_classes_can_be_chosen_and_ordered(tmp_path: Path, content: Content) -> None:
    source = read(tmp_path, content, classes=("square",))
    squares = [entry for entry in content["annotations"] if entry["category_id"] == IDS[1]]
    assert sum(len(example.objects.labels) for example in source.examples) == len(squares)
    assert all((example.objects.labels == 0).all() for example in source.examples)
    swapped = read(tmp_path, content, classes=("square", "disc"), complete=True)
    plain = read(tmp_path, content)
    for one, other in zip(swapped.examples, plain.examples, strict=True):
        np.testing.assert_array_equal(one.objects.labels, 1 - other.objects.labels)


def test_all_objects_can_count_as_one_class(tmp_path: Path, content: Content) -> None:
    plain = read(tmp_path, content)
    assert {label for example in plain.examples for label in example.objects.labels.tolist()} == {0, 1}
    one = plain.as_one_class("object")
    assert one.classes == ("object",)
    for example, other in zip(one.examples, plain.examples, strict=True):
        assert not example.objects.labels.any()
        np.testing.assert_array_equal(example.objects.boxes, other.objects.boxes)


def test_boxes_at_the_edge_are_clipped_and_flat_ones_left_out(tmp_path: Path, content: Content) -> None:
    edge = {"id": 90, "image_id": 100, "category_id": 3, "bbox": [-4, 40, 10, 20], "area": 200, "iscrowd": 0}
    flat = edge | {"id": 91, "bbox": [5, 5, 10, 0.5]}
    ignored = edge | {"id": 92, "bbox": [5, 5, 10, 10], "ignore": 1}
    source = read(tmp_path, content | {"annotations": [*content["annotations"], edge, flat, ignored]})
    assert (source.outside, source.flat) == (1, 1)
    np.testing.assert_array_equal(source[0].objects.boxes, [[0, 40, 6, 48]])


def test_a_hold_out_is_disjoint_and_repeatable(tmp_path: Path) -> None:
    write_coco(tmp_path, [1] * 10, "train")
    source = read_coco(tmp_path / "annotations" / "instances_train.json", tmp_path / "photos")
    train, held = split_objects(source, Data(holdout=0.3), 0)
    names = [{example.name for example in part.examples} for part in (train, held)]
    assert [len(part) for part in names] == [7, 3]
    assert not names[0] & names[1]
    assert [example.name for example in split_objects(source, Data(holdout=0.3), 0)[1].examples] == [
        e.name for e in held.examples
    ]
    with pytest.raises(UserError, match="at least 2"):
        split_objects(source.only([0]), Data(holdout=0.5), 0)
    folds = [split_objects(source, Data(folds=3, fold=fold), 0)[1] for fold in range(3)]
    assert sorted(len(part) for part in folds) == [3, 3, 4]
    assert {example.name for part in folds for example in part.examples} == names[0] | names[1]
    with pytest.raises(UserError, match="at least 11"):
        split_objects(source, Data(folds=11), 0)


def changed(change: Callable[[Content], object]) -> Callable[[Content], Content]:
    def apply(content: Content) -> Content:
        fresh = copy.deepcopy(content)
        change(fresh)
        return fresh

    return apply


def first(**fields: object) -> Callable[[Content], Content]:
    return changed(lambda content: content["annotations"][0].update(fields))


MISTAKES: dict[str, tuple[Callable[[Content], object], list[str]]] = {
    "an annotation of a missing image": (
        first(image_id=5),
        ["annotation 1 is of the image 5, which is not listed"],
    ),
    "a category that is not listed": (first(category_id=4), ["annotation 1", "category 4, which is not listed"]),
    "an image listed twice": (
        changed(lambda content: content["images"].append(content["images"][0] | {"id": 999})),
        ["the image train0.png (id 999) is listed twice"],
    ),
    "an image id used twice": (
        changed(lambda content: content["images"].append(content["images"][0] | {"file_name": "b.png"})),
        ["b.png (id 100) is listed twice"],
    ),
    "a reversed box": (first(bbox=[30, 20, -10, 5]), ["annotation 1 (train1.png) has a reversed box", "(30, 20)"]),
    "a box outside": (
        first(bbox=[70, 2, 10, 5]),
        ["annotation 1 (train1.png)", "(70, 2, 80, 7)", "outside its photo of 64 x 48 pixels"],
    ),
    "a box of three numbers": (
        first(bbox=[1, 2, 3]),
        ["annotation 1 has bbox [1, 2, 3] (a list); expected x, y, width, height"],
    ),
    "a box that is no number": (
        first(bbox=[1, 2, float("nan"), 3]),
        ["annotation 1 has bbox [1, 2, NaN, 3]", "four finite numbers"],
    ),
    "a polygon of two points": (first(segmentation=[[1, 2, 8, 9]]), ["annotation 1 (train1.png)", "2 points"]),
    "a code of another size": (
        first(segmentation={"size": [2, 2], "counts": [4]}),
        ["annotation 1 (train1.png)", "[48, 64]"],
    ),
    "no outline": (first(segmentation=[]), ["annotation 1", "no segmentation"]),
    "an annotation without a box": (
        changed(lambda content: content["annotations"][0].pop("bbox")),
        ["annotation 1 has no bbox"],
    ),
    "an image without a width": (
        changed(lambda content: content["images"][1].pop("width")),
        ["image 103 has no width"],
    ),
    "an annotation id used twice": (
        changed(lambda content: content["annotations"][2].update(id=1)),
        ["annotations number 1 and 3 of the list have the same id, 1"],
    ),
    "ids of two kinds": (
        changed(lambda content: content["images"][0].update(id="100")),
        ['image "100" (text) has an id of another kind than image 106'],
    ),
    "an image id of another kind": (
        first(image_id="103"),
        ['annotation 1 has image_id "103" (text), but the ids of the images are numbers, not text'],
    ),
    "a crowd as text": (first(iscrowd="0"), ['annotation 1 has iscrowd "0" (text); expected 0 or 1']),
    "to be ignored as text": (first(ignore="0"), ['annotation 1 has ignore "0" (text); expected 0 or 1']),
    "no categories": (changed(lambda content: content.update(categories=[])), ["no categories"]),
    "a category twice": (
        changed(lambda content: content["categories"].append({"id": 9, "name": "disc"})),
        ["same name"],
    ),
    "a list": (lambda content: [1, 2], ["not in COCO's format", "images, annotations, categories"]),
    "no annotations": (
        changed(lambda content: content.pop("annotations")),
        ["not in COCO's format", "test photos without ground truth", "Name a split with annotations"],
    ),
    "results": (lambda content: [content["annotations"][0] | {"score": 0.5}], ["not in COCO's format", "with scores"]),
    "no images": (changed(lambda content: content.update(images=[], annotations=[])), ["lists no images"]),
    "a list that is none": (changed(lambda content: content.update(images={})), ["images is {} (an object)"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_coco_is_named_with_file_and_entry(tmp_path: Path, content: Content, name: str) -> None:
    change, parts = MISTAKES[name]
    with pytest.raises(UserError) as error:
        read(tmp_path, change(content), masks=True)
    assert not [part for part in ["instances_train.json", *parts] if part not in str(error.value)], str(error.value)


def test_many_mistakes_are_one_list(tmp_path: Path, content: Content) -> None:
    entries = [entry | {"bbox": [0, 0, -5, -5]} for entry in content["annotations"] for _ in range(10)]
    entries = [entry | {"id": number} for number, entry in enumerate(entries)]
    with pytest.raises(UserError, match=r"has 40 mistakes:\n(.*\n)+  ... and 20 more"):
        read(tmp_path, content | {"annotations": entries})


@pytest.mark.parametrize(
    ("text", "part"),
    [("{", "not JSON: .* in line 1, column 2"), ("[1, 2", "is not JSON"), ("", "is not JSON"), (None, "There is no")],
)
def test_a_file_that_is_not_json(tmp_path: Path, text: str | None, part: str) -> None:
    file = tmp_path / "instances_train.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=part) as error:
        read_coco(file, tmp_path)
    assert str(file) in str(error.value)


def test_a_csv_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.csv is a CSV file, such as Open Images' own annotations.*IsGroupOf"):
        read_coco(tmp_path / "train.csv", tmp_path)


def test_ids_of_images_may_be_text(tmp_path: Path, content: Content) -> None:
    """As pycocotools and MMDetection read them; ids that are whole numbers may be written with a point."""
    for entry, key in [(image, "id") for image in content["images"]] + [
        (e, "image_id") for e in content["annotations"]
    ]:
        entry[key] = f"photo {entry[key]}"
    content["annotations"][0]["id"] = 1.0
    source = read(tmp_path, content)
    assert [example.number for example in source.examples] == ["photo 100", "photo 103", "photo 106"]
    assert [len(example.objects.labels) for example in source.examples] == [0, 1, 3]


def test_what_a_file_leaves_out_is_filled_in(tmp_path: Path, content: Content) -> None:
    for entry in content["annotations"]:
        del entry["id"], entry["area"], entry["iscrowd"]
    content["annotations"][1]["id"] = 7
    truth = [entry for example in read(tmp_path, content).examples for entry in example.truth]
    assert [entry["id"] for entry in truth] == [8, 7, 9, 10]
    assert [entry["area"] for entry in truth] == [entry["bbox"][2] * entry["bbox"][3] for entry in truth]
    assert {entry["iscrowd"] for entry in truth} == {0}


def test_lvis_names_photos_by_their_address(tmp_path: Path, content: Content) -> None:
    first, second, third = content["images"]
    del first["file_name"]
    first |= {"coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg", "neg_category_ids": [3]}
    second |= {"file_name": "COCO_val2014_000000000042.jpg", "neg_category_ids": [], "not_exhaustive_category_ids": []}
    third |= {"file_name": "COCO_val2014_000000000043.jpg", "coco_url": "http://images.cocodataset.org/x/y.jpg"}
    names = [example.name for example in read(tmp_path, content).examples]
    assert names == ["val2017/000000397133.jpg", "000000000042.jpg", "COCO_val2014_000000000043.jpg"]


def test_other_class_names_than_expected(tmp_path: Path, content: Content) -> None:
    for complete, classes in ((True, ("disc",)), (True, ("disc", "ring")), (False, ("ring",))):
        with pytest.raises(UserError, match=r"instances_train\.json has the classes disc, square, but .* are expected"):
            read(tmp_path, content, classes=classes, complete=complete)


def test_photos_are_checked(tmp_path: Path, content: Content) -> None:
    (tmp_path / "photos" / "train0.png").unlink()
    (tmp_path / "photos" / "train1.png").write_text("no image")
    Image.new("RGB", (10, 10)).save(tmp_path / "photos" / "train2.png")
    with pytest.raises(UserError, match="has 3 mistakes") as error:
        read(tmp_path, content).check()
    lines = str(error.value).splitlines()[1:]
    assert "train0.png does not exist" in lines[0]
    assert "train1.png is not an image in any format" in lines[1]
    assert "train2.png has 10 x 10 pixels, but its annotation says 48 x 64" in lines[2]


@pytest.mark.parametrize(("size", "turned"), [((6, 4), True), ((4, 6), False)])
def test_a_photo_that_lies_on_its_side_is_read_as_its_annotation_is(
    tmp_path: Path, size: tuple[int, int], turned: bool
) -> None:
    content = write_coco(tmp_path, [0], "train")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((6, 4, 3), np.uint8)).save(tmp_path / "photos" / "train0.png", exif=exif)
    image = content["images"][0] | {"width": size[0], "height": size[1]}
    source = read(tmp_path, content | {"images": [image]})
    source.check()
    assert source[0].pixels().shape == (size[1], size[0], 3)
    assert turned == (size == (6, 4))


def test_every_entry_of_coco_is_kept_for_evaluation(tmp_path: Path, content: Content) -> None:
    entry = {"id": 90, "image_id": 100, "category_id": 3, "bbox": [5, 5, 10, 0.5], "area": 5, "iscrowd": 0, "note": "x"}
    ignored = entry | {"id": 91, "bbox": [-5, 5, 10, 10], "ignore": 1}
    entries = [*content["annotations"], entry, ignored]
    source = read(tmp_path, content | {"annotations": entries}, masks=False)
    assert source.category_ids == IDS
    assert [example.number for example in source.examples] == [100, 103, 106]
    found = [dict(entry) for example in source.examples for entry in example.truth]
    expected = [{key: value for key, value in entry.items() if key != "segmentation"} for entry in entries]
    assert sorted(found, key=lambda entry: entry["id"]) == expected
    assert read(tmp_path, content, masks=True)[2].truth == tuple(
        entry for entry in content["annotations"] if entry["image_id"] == 106
    )
    assert read(tmp_path, content, classes=("square", "disc")).category_ids == IDS[::-1]
    alone = source.as_one_class("object")
    assert alone.category_ids == IDS[:1]
    assert {entry["category_id"] for example in alone.examples for entry in example.truth} == {IDS[0]}
