"""PASCAL VOC's figures, against live MMDetection and cases made by hand."""

import math
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import tests.mmdet_live  # noqa: F401  # registers what MMDetection wants of mmcv before it is imported
from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.voc_metrics import voc_metrics
from tests.tasks.detection.sets import random_file, random_found, voc_source

# isort: split
from mmdet.evaluation.functional import eval_map
from mmdet.evaluation.metrics import VOCMetric

CLASSES = ("disc", "square", "rare", "absent")


class Serial:
    """`multiprocessing.Pool` without processes."""

    def __init__(self, *_: object) -> None:
        pass

    def starmap(self, function: Callable[..., Any], arguments: Iterable[Any]) -> list[Any]:
        return [function(*each) for each in arguments]

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_processes() -> Any:
    with mock.patch("mmdet.evaluation.functional.mean_ap.Pool", Serial):
        yield


def random_source(random: np.random.Generator) -> ObjectSource:
    photos = []
    for _ in range(int(random.integers(1, 6))):
        objects = []
        for _ in range(int(random.choice([0, 1, 4, 8]))):
            corner, side = random.integers(1, 250, 2), np.exp(random.uniform(1.5, 5, 2)).astype(int)
            box = [*corner.tolist(), *(corner + side).tolist()]
            objects.append((box, int(random.integers(3)), bool(random.random() < 0.3)))
        photos.append(objects)
    return voc_source(photos, CLASSES)


def theirs(source: ObjectSource, found: dict[int, Found]) -> tuple[list[Any], list[Any]]:
    """Annotations and detections as MMDetection's metric collects them."""
    annotations, detections = [], []
    for index, example in enumerate(source.examples):
        boxes = np.array([entry["bbox"] for entry in example.truth], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([entry["category_id"] - 1 for entry in example.truth], int)
        hard = np.array([entry["difficult"] for entry in example.truth], bool)
        annotations.append(
            {
                "bboxes": boxes[~hard],
                "labels": labels[~hard],
                "bboxes_ignore": boxes[hard],
                "labels_ignore": labels[hard],
            }
        )
        objects = found.get(index, Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)))
        rows = np.hstack([objects.boxes, objects.scores[:, None]])
        detections.append([rows[objects.labels == label] for label in range(len(CLASSES))])
    return annotations, detections


def test_the_figures_are_mmdetections_on_random_sets() -> None:
    seen = set()
    for seed in range(50):
        random = np.random.default_rng(seed)
        source = random_source(random)
        found = random_found(random, source)
        annotations, detections = theirs(source, found)
        for mode, threshold in (("11points", 0.5), ("area", 0.5), ("area", 0.75), ("11points", 0.35)):
            expected, classes = eval_map(
                detections,
                annotations,
                iou_thr=threshold,
                dataset=CLASSES,
                logger="silent",
                eval_mode=mode,
                use_legacy_coordinate=True,
            )
            figures = voc_metrics(source, found, thresholds=(threshold,), mode=mode)  # type: ignore[arg-type]
            name = f"bbox_AP{round(100 * threshold)}"
            wanted = {f"bbox_mAP/{cls}": each["ap"] for cls, each in zip(CLASSES, classes, strict=True)}
            wanted = {
                name: float(value) if each["num_gts"] else math.nan
                for (name, value), each in zip(wanted.items(), classes, strict=True)
            }
            wanted |= dict.fromkeys(("bbox_mAP", name), expected if any(c["num_gts"] for c in classes) else math.nan)
            assert figures == pytest.approx(wanted, abs=1e-6, nan_ok=True)
            seen.add(round(expected, 6))
    assert len(seen) > 50


@pytest.mark.parametrize("mode", ["11points", "area"])
def test_the_reported_figures_are_those_of_mmdetection(mode: Any) -> None:
    random = np.random.default_rng(3)
    source = random_source(random)
    found = random_found(random, source)
    annotations, _ = theirs(source, found)
    metric = VOCMetric(iou_thrs=[0.5, 0.7], eval_mode=mode)
    metric.dataset_meta = {"classes": CLASSES, "dataset_type": None}
    for index, truth in enumerate(annotations):
        objects = found.get(index, Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)))
        sample = {
            "gt_instances": {name: torch.tensor(truth[name]) for name in ("bboxes", "labels")},
            "ignored_instances": {name: torch.tensor(truth[f"{name}_ignore"]) for name in ("bboxes", "labels")},
            "pred_instances": {name: torch.tensor(getattr(objects, name)) for name in ("boxes", "scores", "labels")},
        }
        sample["pred_instances"]["bboxes"] = sample["pred_instances"].pop("boxes")
        metric.process({}, [sample])
    expected = metric.compute_metrics(metric.results)
    figures = voc_metrics(source, found, thresholds=(0.5, 0.7), mode=mode)
    assert figures["bbox_mAP"] == pytest.approx(expected["mAP"], abs=1e-6)
    for name in ("AP50", "AP70"):
        assert figures[f"bbox_{name}"] == pytest.approx(expected[name], abs=5.1e-4)
    assert 0 < figures["bbox_mAP"] < 1


# Cases made by hand


def found(*objects: tuple[list[int], int, float]) -> dict[int, Found]:
    boxes, labels, scores = zip(*objects, strict=True)
    return {0: Found(np.array(boxes, float), np.array(scores), np.array(labels))}


BOX, FAR = [9, 9, 39, 39], [200, 200, 230, 230]  # what is found, in our corners; a pixel of VOC's is one more
ONE = ((10, 10, 40, 40), 0, False)


def test_difficult_objects_need_not_be_found_and_do_no_harm() -> None:
    hard = ((201, 201, 231, 231), 0, True)
    source = voc_source([[ONE, hard]], CLASSES)
    assert voc_metrics(source, found((BOX, 0, 0.5)))["bbox_mAP"] == 1
    twice = found((FAR, 0, 0.9), (FAR, 0, 0.8), (BOX, 0, 0.5))
    assert voc_metrics(source, twice, mode="area")["bbox_mAP"] == 1
    inside = found(([205, 205, 210, 210], 0, 0.9), (BOX, 0, 0.5))
    assert voc_metrics(source, inside, mode="area")["bbox_mAP"] == 0.5
    only = voc_metrics(voc_source([[hard]], CLASSES), found((FAR, 0, 0.9)))
    assert all(math.isnan(value) for value in only.values())


def test_an_object_is_found_once() -> None:
    source = voc_source([[ONE, ((100, 10, 130, 40), 0, False)]], CLASSES)
    figures = voc_metrics(source, found((BOX, 0, 0.9), (BOX, 0, 0.8), (BOX, 1, 0.95)), mode="area")
    assert figures["bbox_mAP"] == pytest.approx(0.5)
    assert figures["bbox_mAP/disc"] == pytest.approx(0.5)
    assert math.isnan(figures["bbox_mAP/square"])


def test_corners_are_pixels_that_belong_to_the_box() -> None:
    """Two boxes of 10 x 10 pixels, a pixel apart: 90 / 110, not 81 / 99."""
    source = voc_source([[((1, 1, 10, 10), 0, False)]], CLASSES)
    shifted = found(([1, 0, 10, 9], 0, 0.9))
    assert voc_metrics(source, shifted, thresholds=(90 / 110,))["bbox_mAP"] == pytest.approx(1)
    assert voc_metrics(source, shifted, thresholds=(90 / 110 + 1e-9,))["bbox_mAP"] == 0


def test_a_coco_file_by_vocs_rule(tmp_path: Any) -> None:
    """Crowds and entries to be ignored count as difficult."""
    random = np.random.default_rng(2)
    source = read_coco(random_file(random, tmp_path), tmp_path)
    hard = tuple(
        example._replace(
            truth=tuple(
                {key: value for key, value in entry.items() if key not in ("iscrowd", "ignore")}
                | {"difficult": int(bool(entry["iscrowd"] or entry.get("ignore")))}
                for entry in example.truth
            )
        )
        for example in source.examples
    )
    assert any(entry["difficult"] for example in hard for entry in example.truth)
    objects = random_found(random, source)
    figures = voc_metrics(source, objects, thresholds=(0.3,))
    same = ObjectSource("x", source.classes, hard, category_ids=source.category_ids)
    assert figures == pytest.approx(voc_metrics(same, objects, thresholds=(0.3,)), nan_ok=True)
    assert 0 < figures["bbox_mAP"] < 1
