"""What each detection of a photo is to its ground truth: right, or wrong in one of TIDE's ways.

The kinds are those of Bolya et al. 2020 (https://arxiv.org/abs/2008.08115), section 2.2, tried in the order of their
program: a place that is only nearly right, another class, an object that is found already, nothing at all, both wrong.
Where there are no crowds the counts are those of their program (tidecv 1.0.1); it also calls a mistake what lies in a
crowd and is right about nothing, which is passed over here, as in COCO's figures.
"""

from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.results import corner_and_size

FOREGROUND, BACKGROUND = 0.5, 0.1  # overlaps
RIGHT, MISSED = "right", "missed"
KINDS = {
    "location": f"the right class, overlapping by {BACKGROUND:g} to {FOREGROUND:g}",
    "class": "the right place, another class",
    "duplicate": "an object that is found already, with a higher score",
    "background": f"nothing there, overlapping by less than {BACKGROUND:g}",
    "both": "another class, and not quite the right place",
}


class Mistakes(NamedTuple):
    """The detections and the objects of one photo.

    Attributes:
        kinds: for each detection `right`, a key of `KINDS`, or empty where it lies in a region to be ignored.
        partners: int: the object that each detection is about, -1 for none.
        found: for each object whether a detection is right about it.
        missed: for each object whether none is, nor is wrong about it by class or location alone.
    """

    kinds: tuple[str, ...]
    partners: np.ndarray
    found: np.ndarray
    missed: np.ndarray


def mistakes(found: Found, boxes: np.ndarray, labels: np.ndarray, ignored: np.ndarray, crowds: np.ndarray) -> Mistakes:
    """Compares what was found in a photo with what is there.

    Args:
        found: best first.
        boxes: `[T, 4]`, corners, pixels of the photo as it is stored; `labels` int `[T]`.
        ignored: bool `[T]`: crowds and difficult objects, which are neither to be found nor background.
        crowds: bool `[T]`: those of which a detection may be a part.
    """
    overlaps, kept = _overlaps(found.boxes, boxes, crowds), np.flatnonzero(~ignored)
    real, regions = overlaps[:, kept], overlaps[:, ignored]
    same = found.labels[:, None] == labels[kept]
    partners, taken = _matched(real, same)
    kinds = np.full(len(partners), RIGHT, object)
    wrong = np.flatnonzero(partners < 0)
    kinds[wrong], partners[wrong] = _kinds(real[wrong], same[wrong], taken)
    passed = ((regions > FOREGROUND) & (found.labels[:, None] == labels[ignored])).any(axis=1)
    kinds[passed & (kinds != RIGHT)] = ""
    about = partners[(kinds == "location") | (kinds == "class")]
    missed = ~taken & ~np.isin(np.arange(len(kept)), about)
    whole = np.zeros((2, len(labels)), bool)
    whole[:, kept] = taken, missed
    partners[partners >= 0] = kept[partners[partners >= 0]]
    return Mistakes(tuple(kinds), partners, whole[0], whole[1])


def _matched(overlaps: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The object that each detection finds, -1 for none, and which objects are found: each detection, best first, takes
    the object of its class that it overlaps most of those that are left."""
    partners, taken = np.full(len(overlaps), -1), np.zeros(overlaps.shape[1], bool)
    fitting = np.where(same, overlaps, 0.0)
    for row in np.flatnonzero((fitting >= FOREGROUND).any(axis=1)):
        free = np.where(taken, 0.0, fitting[row])
        if free.max() >= FOREGROUND:
            partners[row] = free.argmax()
            taken[partners[row]] = True
    return partners, taken


def _kinds(overlaps: np.ndarray, same: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is wrong with each of these detections, and the object that it is about, -1 for none.

    Args:
        overlaps: `[D, T]` with each object; `same` `[D, T]` whether it has the detection's class, `taken` `[T]` whether
            it is found already.
    """
    rows = len(overlaps)
    if not overlaps.shape[1]:
        return np.full(rows, "background", object), np.full(rows, -1)
    own, other, doubled = (np.where(among, overlaps, -1.0) for among in (same, ~same, same & taken))
    conditions = (
        (own.max(1) >= BACKGROUND) & (own.max(1) <= FOREGROUND),
        other.max(1) >= FOREGROUND,
        doubled.max(1) >= FOREGROUND,
        overlaps.max(1) <= BACKGROUND,
    )
    kinds = np.select(conditions, ("location", "class", "duplicate", "background"), "both")
    about = np.select(conditions, (own.argmax(1), other.argmax(1), doubled.argmax(1), -1), overlaps.argmax(1))
    return kinds.astype(object), about


def _overlaps(found: np.ndarray, boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """COCO's overlaps `[D, T]`; with a crowd, the share of the detection that lies in it."""
    if not len(found) or not len(boxes):
        return np.zeros((len(found), len(boxes)))
    sides = ([corner_and_size(box) for box in each.astype(np.float64)] for each in (found, boxes))
    return np.asarray(coco_mask.iou(*sides, crowds.astype(np.uint8).tolist()))
