"""What training sees of a file is what MMDetection's CocoDataset and XMLDataset see."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.voc import read_voc
from tests.scenes import CLASSES, write_coco, write_json, write_voc


def compare(source: ObjectSource, reference: Any, *, masks: bool) -> int:
    """Every object of every photo, MMDetection's clipped to the photo as its first step does it; their number."""
    assert len(reference) == len(source)
    for index, example in enumerate(source.examples):
        theirs = reference.get_data_info(index)
        assert (theirs["width"], theirs["height"]) == (example.width, example.height)
        instances, objects = theirs["instances"], example.objects
        boxes = np.array([instance["bbox"] for instance in instances], np.float64).reshape(-1, 4)
        np.testing.assert_array_equal(
            objects.boxes,
            boxes.clip(0, [example.width, example.height] * 2).astype(np.float32),
        )
        assert objects.labels.tolist() == [instance["bbox_label"] for instance in instances]
        assert objects.ignored.tolist() == [bool(instance["ignore_flag"]) for instance in instances]
        if masks:
            assert list(objects.shapes) == [instance["mask"] for instance in instances]
    return sum(len(example.objects.labels) for example in source.examples)


def coco_content(root: Path, seed: int) -> dict[str, Any]:
    """Photos with many objects, some of them crowds, marked, thin, without an area, or reaching out of the photo."""
    rng = np.random.default_rng(seed)
    content = write_coco(root, rng.integers(0, 9, 6).tolist(), "train", seed=seed)
    for entry in content["annotations"]:
        kind = rng.integers(9)
        if kind == 0:
            entry["ignore"] = 1
        elif kind == 1:
            entry["bbox"][2 + int(rng.integers(2))] = 0.75
        elif kind == 2:
            entry["area"] = 0
        elif kind == 3:
            entry["bbox"][:2] = [-5.25, -3]
        elif kind == 4:
            entry["bbox"][2:] = [80.5, 70]
        elif kind == 5:
            entry["iscrowd"] = 1
    write_json(root, "train", content)
    return content


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES[1:]])
def test_coco_is_read_as_mmdetection_reads_it(tmp_path: Path, seed: int, classes: tuple[str, ...]) -> None:
    from tests.mmdet_live import quiet

    coco_content(tmp_path, seed)
    file = tmp_path / "annotations" / "instances_train.json"
    with quiet():
        from mmdet.datasets import CocoDataset

        settings = {"data_prefix": {"img": ""}, "metainfo": {"classes": classes}, "pipeline": [], "test_mode": True}
        reference = CocoDataset(ann_file=str(file), **settings)
    source = read_coco(file, tmp_path, classes, masks=True)
    assert compare(source, reference, masks=True) > 3
    assert source.category_ids == tuple(reference.cat_ids)
    assert [example.number for example in source.examples] == [
        reference.get_data_info(index)["img_id"] for index in range(len(source))
    ]


def test_voc_is_read_as_mmdetection_reads_it(tmp_path: Path) -> None:
    from tests.mmdet_live import quiet

    rng = np.random.default_rng(0)
    photos: dict[str, list[tuple[str, int, tuple[Any, ...]]]] = {}
    for stem in "abcd":
        low = rng.integers(0, [30, 20], (5, 2))
        high = low + rng.integers(2, 20, (5, 2))
        corners = np.concatenate([low, high], 1) + rng.choice([0, 0.75], (5, 4))
        rows = [tuple(value if value % 1 else int(value) for value in row) for row in corners.tolist()]
        photos[stem] = [(CLASSES[int(rng.integers(2))], int(rng.integers(2)), row) for row in rows]
    root = write_voc(tmp_path, photos)
    with quiet():
        from mmdet.datasets import XMLDataset

        reference = XMLDataset(
            ann_file=str(root / "ImageSets" / "Main" / "train.txt"),
            data_prefix={"sub_data_root": str(root)},
            metainfo={"classes": CLASSES},
            pipeline=[],
            test_mode=True,
        )
    source = read_voc(root, "train", CLASSES)
    assert compare(source, reference, masks=False) == 20
    for index, example in enumerate(source.examples):
        theirs = np.array([instance["bbox"] for instance in reference.get_data_info(index)["instances"]])
        np.testing.assert_array_equal([entry["bbox"][:2] for entry in example.truth], theirs[:, :2])
        np.testing.assert_array_equal([entry["bbox"][2:] for entry in example.truth], theirs[:, 2:] - theirs[:, :2])
