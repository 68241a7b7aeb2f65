"""What an evaluation of detections says beyond its metrics, beside pycocotools."""

import contextlib
import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from jaxft.config import Detection
from jaxft.tasks.detection.details import RECALLS, object_details
from jaxft.tasks.detection.evaluator import ObjectEvaluator
from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.metrics import coco_metrics, coco_truth
from jaxft.tasks.detection.mistakes import Mistakes, mistakes
from jaxft.tasks.detection.results import box_results
from tests.tasks.detection.sets import voc_source

CLASSES = ("disc", "square")


def found(*rows: tuple[tuple[float, float, float, float], int, float]) -> Found:
    boxes, labels, scores = ([row[part] for row in rows] for part in range(3))
    return Found(np.array(boxes, float).reshape(-1, 4), np.array(scores, float), np.array(labels, int))


def test_each_detection_is_right_or_wrong_in_one_way() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [80, 0, 90, 10]], float)
    labels, ignored = np.array([0, 0, 1, 1, 0]), np.array([False, False, False, False, True])
    said = found(
        ((0, 0, 10, 10), 0, 0.9),  # right
        ((0, 1, 10, 10), 0, 0.8),  # the same object once more
        ((20, 0, 30, 10), 1, 0.7),  # another class
        ((40, 6, 50, 16), 1, 0.6),  # an overlap of a quarter
        ((200, 0, 210, 10), 0, 0.5),  # nothing
        ((40, 6, 50, 16), 0, 0.4),  # another class with an overlap of a quarter
        ((80, 0, 90, 10), 0, 0.3),  # to be ignored
    )
    judged = mistakes(said, boxes, labels, ignored, ignored)
    assert judged.kinds == ("right", "duplicate", "class", "location", "background", "both", "")
    assert judged.found.tolist() == [True, False, False, False, False]
    assert judged.missed.tolist() == [False, False, False, True, False]
    assert judged.partners[:4].tolist() == [0, 0, 1, 2]
    empty = mistakes(found(), boxes, labels, ignored, ignored)
    assert empty.missed.sum() == 4
    assert mistakes(said, boxes[:0], labels[:0], ignored[:0], ignored[:0]).kinds == ("background",) * 7


def judged(rows: list, objects: Found) -> Mistakes:
    boxes, labels = np.array([row[0] for row in rows], float) - 1, np.array([row[1] for row in rows])
    return mistakes(objects, boxes, labels, *np.zeros((2, len(rows)), bool))


def test_figures_are_pycocotools() -> None:
    rng = np.random.default_rng(0)
    photos, founds = [], {}
    for index in range(12):
        corners = rng.integers(1, 200, (4, 2))
        rows = [((x, y, x + 60, y + 60), int(rng.integers(2)), False) for x, y in corners.tolist()]
        photos.append(rows)
        moved = [
            (tuple(np.array(box) + rng.integers(-14, 14, 4)), label if rng.random() > 0.2 else 1 - label, rng.random())
            for box, label, _ in (*rows, *rows[:2])
        ]
        founds[index] = found(*sorted(moved, key=lambda row: -row[2]))  # type: ignore[arg-type]
    source = voc_source(photos, CLASSES)
    figures = coco_metrics(source, founds)
    details = object_details(source, founds, figures)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_truth(source)
        judge = COCOeval(truth, truth.loadRes(box_results(source, founds)), "bbox")
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][0, :, :, 0, -1]  # by half the overlap
    plot = details.plots[0]
    assert [curve.label for curve in plot.curves] == ["mean of all", *CLASSES]
    for label in range(2):
        np.testing.assert_allclose(np.array(plot.curves[1 + label].y, float), precision[:, label])
    assert plot.curves[0].x == tuple(RECALLS)
    rows = {row[0]: dict(zip(details.tables[0].columns, row, strict=True)) for row in details.tables[0].rows}
    assert rows["disc"]["AP"] == figures["bbox_mAP/disc"]
    assert np.mean([row["AP50"] for row in rows.values()]) == pytest.approx(figures["bbox_mAP_50"])
    assert details.tables[1].rows[0][2] == figures["bbox_mAP"]
    counted = {row[0]: row[1] for row in details.tables[2].rows}
    whole = Counter(kind for index, objects in founds.items() for kind in judged(photos[index], objects).kinds)
    assert {name: counted[name] for name in whole} == whole
    assert details.confusion is not None
    confusion = np.array(details.confusion.counts)
    assert confusion[:2].sum(1).tolist() >= [rows[name]["objects"] for name in CLASSES]  # type: ignore[type-var]
    assert {cell for example in details.examples for cell in example.cells} == {
        tuple(cell) for cell in np.argwhere(confusion).tolist()
    }
    shown = details.examples[0].objects
    assert [each.score is None for each in shown[:5]] == [True] * 4 + [False]


def test_the_evaluator_says_what_was_missed() -> None:
    source = voc_source([[((11, 11, 40, 40), 0, False)], []], CLASSES)
    evaluator = ObjectEvaluator(replace(source), Detection(metric="voc"))
    evaluator.result()
    details = evaluator.details()
    assert [table.name for table in details.tables] == ["classes", "mistakes"]
    assert details.examples[0].cells == ((0, 2),)
    assert (details.examples[0].wrong, details.examples[1].wrong) == (1, 0)
    assert details.examples[0].objects[0].verdict == "missed"
