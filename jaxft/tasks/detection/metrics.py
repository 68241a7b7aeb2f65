"""COCO's evaluation: mean average precision of boxes and masks, by overlap, by size and by class."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.objects import Objects, ObjectSource

Entry = dict[str, Any]
# How many objects of a photo count, best first: for precision the first number, for recall each (MMDetection's).
_COUNTS = (100, 300, 1000)
# Precision under MMDetection's names: the overlaps, of 0.5, 0.55, ... 0.95, and the size, of COCO's four.
_PRECISION = {
    "mAP": (slice(None), 0),
    "mAP_50": (slice(0, 1), 0),
    "mAP_75": (slice(5, 6), 0),
    "mAP_s": (slice(None), 1),
    "mAP_m": (slice(None), 2),
    "mAP_l": (slice(None), 3),
}


def coco_metrics(source: ObjectSource, found: Mapping[int, Found]) -> dict[str, float]:
    """COCO's figures for the photos of a source, 0..1.

    Args:
        source: the truth; read with masks where masks are to be judged.
        found: what was found in the photo at each position of the source; a photo without an entry has nothing.

    Returns:
        `bbox_mAP` (the mean over the overlaps 0.5, 0.55, ... 0.95), `bbox_mAP_50`, `bbox_mAP_75`, for small, medium and
        large objects `bbox_mAP_s`, `_m`, `_l`, and for each class `bbox_mAP/CLASS`; the mean recall with 100 objects a
        photo `bbox_AR@100`, with 300 and 1000 where so many were found; with masks the same as `segm_...`.
        Sizes and classes of which the truth has no object are left out.
    """
    kinds = ["bbox"]
    if any(entry.codes for entry in found.values()) and any(example.objects.shapes for example in source.examples):
        kinds.append("segm")
    metrics: dict[str, float] = {}
    for kind in kinds:
        truth = [_truth(example.objects, kind) for example in source.examples]
        answers = [_answers(found.get(index), kind) for index in range(len(source))]
        metrics |= _evaluate(source, truth, answers, kind)
    return metrics


def _evaluate(
    source: ObjectSource, truth: Sequence[Sequence[Entry]], found: Sequence[Sequence[Entry]], kind: str
) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        tables = []
        for annotations in (truth, found):
            table = COCO()
            table.dataset = _dataset(source, annotations)
            table.createIndex()
            tables.append(table)
        judge = COCOeval(*tables, kind)
        judge.params.maxDets = list(_COUNTS)
        judge.evaluate()
        judge.accumulate()
    # Overlaps, recalls, classes, sizes, counts; and without the recalls.
    precision, recall = judge.eval["precision"][..., 0], judge.eval["recall"][:, :, 0]
    figures = {f"{kind}_{name}": _mean(precision[at][..., size]) for name, (at, size) in _PRECISION.items()}
    figures |= {f"{kind}_mAP/{name}": _mean(precision[:, :, index, 0]) for index, name in enumerate(source.classes)}
    most = max((len(photo) for photo in found), default=0)
    for index, count in enumerate(_COUNTS):
        if index == 0 or most > _COUNTS[index - 1]:
            figures[f"{kind}_AR@{count}"] = _mean(recall[..., index])
    main = f"{kind}_mAP"  # must be there for the choice of the best model
    return {name: max(value, 0.0) for name, value in figures.items() if value > -1 or name == main}


def _mean(values: np.ndarray) -> float:
    """The mean of what COCOeval counted; -1 where that is nothing."""
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else -1.0


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
