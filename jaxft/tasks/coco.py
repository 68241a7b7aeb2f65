"""COCO's evaluation: mean average precision of boxes and masks, by overlap, by size and by class."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxft.data.objects import Objects, ObjectSource

Entry = dict[str, Any]
# Where COCOeval.summarize puts its figures, under MMDetection's names.
_FIGURES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


class Found(NamedTuple):
    """The objects that were found in one photo, in pixels of the photo as it is stored, best first.

    Attributes:
        boxes: float `[K, 4]`, corners.
        scores: float `[K]`, 0..1.
        labels: int `[K]`.
        codes: COCO's run-length code of each object's mask; empty where the model has no masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    codes: tuple[Entry, ...] = ()


def coco_metrics(source: ObjectSource, found: Mapping[int, Found]) -> dict[str, float]:
    """COCO's figures for the photos of a source, 0..1.

    Args:
        source: the truth; read with masks where masks are to be judged.
        found: what was found in the photo at each position of the source; a photo without an entry has nothing.

    Returns:
        `bbox_mAP` (the mean over the overlaps 0.5, 0.55, ... 0.95), `bbox_mAP_50`, `bbox_mAP_75`, for small, medium and
        large objects `bbox_mAP_s`, `_m`, `_l`, and for each class `bbox_mAP/CLASS`; with masks the same as `segm_...`.
        Sizes and classes of which the truth has no object are left out.
    """
    kinds = ["bbox"]
    if any(entry.codes for entry in found.values()) and any(example.objects.shapes for example in source.examples):
        kinds.append("segm")
    metrics: dict[str, float] = {}
    for kind in kinds:
        truth = _dataset(source, [_truth(example.objects, kind) for example in source.examples])
        answers = _dataset(source, [_answers(found.get(index), kind) for index in range(len(source))])
        metrics |= _evaluate(truth, answers, kind, source.classes)
    return metrics


def _evaluate(truth: Entry, answers: Entry, kind: str, classes: Sequence[str]) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        tables = []
        for content in (truth, answers):
            table = COCO()
            table.dataset = content
            table.createIndex()
            tables.append(table)
        judge = COCOeval(*tables, kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    figures = {f"{kind}_{name}": value for name, value in zip(_FIGURES, judge.stats, strict=False)}
    precision = judge.eval["precision"][:, :, :, 0, -1]  # overlaps, recalls, classes; all sizes, up to 100 objects
    for index, name in enumerate(classes):
        counted = precision[..., index][precision[..., index] > -1]
        figures[f"{kind}_mAP/{name}"] = counted.mean() if counted.size else -1.0
    main = f"{kind}_mAP"  # must be there for the choice of the best model
    return {name: float(max(value, 0)) for name, value in figures.items() if value > -1 or name == main}


def _dataset(source: ObjectSource, annotations: Sequence[Sequence[Entry]]) -> Entry:
    images = [
        {"id": index, "width": example.width, "height": example.height} for index, example in enumerate(source.examples)
    ]
    numbered = [entry | {"image_id": index} for index, entries in enumerate(annotations) for entry in entries]
    return {
        "info": {},
        "images": images,
        "annotations": [entry | {"id": number} for number, entry in enumerate(numbered, 1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(source.classes)],
    }


def _truth(objects: Objects, kind: str) -> list[Entry]:
    entries = [
        {"category_id": int(label), "bbox": _corner_and_size(box), "area": float(area), "iscrowd": int(ignored)}
        for box, label, ignored, area in zip(objects.boxes, objects.labels, objects.ignored, objects.areas, strict=True)
    ]
    shapes = objects.shapes if kind == "segm" else ()
    return (
        [entry | {"segmentation": shape} for entry, shape in zip(entries, shapes, strict=True)] if shapes else entries
    )


def _answers(found: Found | None, kind: str) -> list[Entry]:
    """Annotations with scores; their areas, by which COCO tells small from large, are those of the boxes or masks."""
    if found is None:
        return []
    entries = [
        {
            "category_id": int(label),
            "bbox": _corner_and_size(box),
            "area": float((box[2] - box[0]) * (box[3] - box[1])),
            "iscrowd": 0,
            "score": float(score),
        }
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]
    if not found.codes or kind == "bbox":
        return entries
    return [
        entry | {"segmentation": code, "area": float(coco_mask.area(code))}
        for entry, code in zip(entries, found.codes, strict=True)
    ]


def _corner_and_size(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = box.tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def written(source: ObjectSource, found: Mapping[int, Found]) -> Entry:
    """What was found as COCO's JSON: images, categories (numbered from 1) and annotations with scores."""
    kind = "segm" if any(entry.codes for entry in found.values()) else "bbox"
    content = _dataset(source, [_answers(found.get(index), kind) for index in range(len(source))])
    images = [
        entry | {"id": example.number, "file_name": example.name}
        for entry, example in zip(content["images"], source.examples, strict=True)
    ]
    numbers = [example.number for example in source.examples]
    annotations = [
        entry | {"image_id": numbers[entry["image_id"]], "category_id": entry["category_id"] + 1}
        for entry in content["annotations"]
    ]
    categories = [entry | {"id": entry["id"] + 1} for entry in content["categories"]]
    return content | {"images": images, "annotations": annotations, "categories": categories}
