"""The recall of proposals without COCOeval: MMDetection's `proposal_fast`.

Each object gets one box, the pairs of greatest overlap first, whatever the boxes' scores.
"""

from collections.abc import Sequence

import numpy as np

from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.results import Founds


def fast_recall(
    source: ObjectSource, found: Founds, thresholds: Sequence[float], counts: Sequence[int]
) -> dict[int, float]:
    """The share of objects whose box overlaps them by a threshold, the mean over the thresholds, by count.

    Crowds and entries that the file marks `ignore` are left out; what is found in them does no harm.

    Args:
        counts: of each photo, so many boxes count, best first.

    Returns:
        0..1 for each of `counts`; NaN without any object.
    """
    tables = []
    for index, example in enumerate(source.examples):
        truth = [entry["bbox"] for entry in example.truth if not (entry.get("iscrowd") or entry.get("ignore"))]
        boxes = found[index].boxes if index in found else np.zeros((0, 4))
        corners = np.array(truth, float).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        tables.append(overlaps(corners, boxes))
    recalls = {}
    for count in counts:
        best = np.concatenate([np.zeros(0), *(_paired(table[:, :count]) for table in tables)])
        reached = [(best >= threshold).mean() if best.size else np.nan for threshold in thresholds]
        recalls[count] = float(np.mean(reached))
    return recalls


def _paired(table: np.ndarray) -> np.ndarray:
    """The overlap of each pair of one object and one box, `[K]` for a table `[K, boxes]`; 0 for an object alone."""
    table, best = table.copy(), np.zeros(len(table))
    for pair in range(min(table.shape)):
        row, column = np.unravel_index(table.argmax(), table.shape)
        best[pair] = table[row, column]
        table[row], table[:, column] = -1, -1
    return best


def overlaps(one: np.ndarray, other: np.ndarray, last_pixel: int = 0) -> np.ndarray:
    """Intersection over union `[N, M]` of boxes `[N, 4]` and `[M, 4]`, corners.

    Args:
        last_pixel: 1 where a corner is a pixel that the box includes, as in PASCAL VOC, so that a box from 3 to 5 is 3
            wide.
    """
    first, second = one[:, None].astype(np.float64), other[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]) + last_pixel
    inside = sides.clip(0).prod(-1)
    areas = ((boxes[..., 2:] - boxes[..., :2] + last_pixel).prod(-1) for boxes in (first, second))
    return np.asarray(inside / np.maximum(sum(areas) - inside, 1e-6))
