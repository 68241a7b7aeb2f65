"""PASCAL VOC's average precision, as MMDetection's `VOCMetric` takes it.

Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge", and the development kit's `VOCevaldet`. A
corner is a pixel that its box includes. What is found goes to the object that it overlaps most; difficult objects need
not be found, and what goes to them is neither right nor wrong.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxft.tasks.detection.metrics import NOTHING_APART
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.proposals import overlaps
from jaxft.tasks.detection.results import Founds, category_ids

Mode = Literal["11points", "area"]
USUAL = (0.5,)
"""VOC's overlap from which on an object is found."""


class _Matches(NamedTuple):
    """What was found of one class, best first: the object that each overlaps most (-1 for none; numbers go on from
    photo to photo), by how much, and whether that object is difficult; and how many objects are to be found."""

    objects: np.ndarray
    overlaps: np.ndarray
    difficult: np.ndarray
    wanted: int


def voc_metrics(
    source: ObjectSource,
    found: Founds,
    *,
    thresholds: Sequence[float] = (),
    mode: Mode = "11points",
    apart: Mapping[str, range] = NOTHING_APART,
) -> dict[str, float]:
    """VOC's figures for the photos of a source, 0..1; NaN where there is nothing to find.

    Entries of the source's `truth` that are `difficult`, crowds (`iscrowd`) or marked `ignore` count as difficult.

    Args:
        thresholds: the overlaps from which on an object is found; VOC's 0.5 where it is empty.
        mode: the mean of the precisions at the recalls 0, 0.1, ... 1 (VOC 2007), or the area under the curve of
            precision over recall, made monotone (VOC 2010 and later).
        apart: positions of classes whose means are given once more, by what goes before their names.

    Returns:
        `bbox_AP50`, the mean over the classes, for each threshold; their mean `bbox_mAP`; and for each class the mean
        over the thresholds, `bbox_mAP/CLASS`. Classes without an object to find have no part in a mean.
    """
    thresholds = thresholds or USUAL
    table = np.full((len(source.classes), len(thresholds)), np.nan)
    for label in range(len(source.classes)):
        matches = _matches(source, found, label)
        if matches.wanted:
            table[label] = [_average_precision(matches, threshold, mode) for threshold in thresholds]
    return {
        **_means(table, thresholds),
        **{
            f"{name}/{key}": mean for name, own in apart.items() for key, mean in _means(table[own], thresholds).items()
        },
        **{f"bbox_mAP/{name}": float(row.mean()) for name, row in zip(source.classes, table, strict=True)},
    }


def _means(table: np.ndarray, thresholds: Sequence[float]) -> dict[str, float]:
    """Of the classes of a table `[classes, thresholds]` that have an object to find."""
    there = table[~np.isnan(table[:, 0])]
    means = there.mean(0) if len(there) else np.full(len(thresholds), np.nan)
    at = {_at(value): float(mean) for value, mean in zip(thresholds, means, strict=True)}
    return {"bbox_mAP": float(means.mean()), **at}


def voc_names(classes: Sequence[str], thresholds: Sequence[float] = (), apart: Collection[str] = ()) -> list[str]:
    """All that `voc_metrics` gives."""
    means = ["bbox_mAP", *map(_at, thresholds or USUAL)]
    return [*means, *(f"{name}/{mean}" for name in apart for mean in means), *(f"bbox_mAP/{name}" for name in classes)]


def _at(threshold: float) -> str:
    return f"bbox_AP{round(100 * threshold):02d}"


def _matches(source: ObjectSource, found: Founds, label: int) -> _Matches:
    category = category_ids(source)[label]
    parts, objects, wanted = [(np.zeros(0), np.zeros(0, int), np.zeros(0), np.zeros(0, bool))], 0, 0
    for index, example in enumerate(source.examples):
        truth = [entry for entry in example.truth if entry["category_id"] == category]
        hard = np.array(
            [bool(entry.get("difficult") or entry.get("iscrowd") or entry.get("ignore")) for entry in truth], bool
        )
        if index in found:
            own = found[index].labels == label
            boxes, scores = found[index].boxes[own], found[index].scores[own]
            parts.append((scores, *_nearest(boxes, truth, hard, objects)))
        objects, wanted = objects + len(truth), wanted + int((~hard).sum())
    scores, best, overlap, difficult = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")
    return _Matches(best[order], overlap[order], difficult[order], wanted)


def _nearest(
    boxes: np.ndarray, truth: Sequence[dict], hard: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The object that each box overlaps most, by how much, and whether it is difficult; of equals, one that is not."""
    if not truth:
        return np.full(len(boxes), -1), np.zeros(len(boxes)), np.zeros(len(boxes), bool)
    order = np.argsort(hard, kind="stable")
    corners = np.array([entry["bbox"] for entry in truth], float)[order]
    corners[:, 2:] += corners[:, :2]
    table = overlaps(boxes, corners, last_pixel=1)
    best = table.argmax(1)
    return first + order[best], table.max(1), hard[order[best]]


def _average_precision(matches: _Matches, threshold: float, mode: Mode) -> float:
    near = matches.overlaps >= threshold
    counted = ~(near & matches.difficult)
    near, objects = near[counted], matches.objects[counted]
    right = np.zeros(len(near), bool)
    _, firsts = np.unique(objects[near], return_index=True)  # an object is found once, by its best box
    right[np.flatnonzero(near)[firsts]] = True
    recall = right.cumsum() / matches.wanted
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a greater one
    if mode == "area":
        return float((np.diff(recall, prepend=0.0) * highest).sum())
    places = np.searchsorted(recall, 0.1 * np.arange(11))
    return float(np.append(highest, 0.0)[places].mean())
