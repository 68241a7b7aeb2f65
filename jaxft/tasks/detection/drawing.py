"""Objects of photos in the form in which they are drawn."""

from collections.abc import Sequence

import numpy as np

from jaxft.reporting.details import Object
from jaxft.tasks.detection.contours import outline
from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.objects import Objects


def found_objects(found: Found, classes: Sequence[str]) -> list[Object]:
    """What was found, with its masks as outlines."""
    codes = found.codes or ({},) * len(found.labels)
    return [
        Object(label=classes[label], box=corners(box), score=float(score), outline=outline(code) if code else ())
        for box, score, label, code in zip(
            found.boxes, found.scores.tolist(), found.labels.tolist(), codes, strict=True
        )
    ]


def true_objects(objects: Objects, classes: Sequence[str]) -> list[Object]:
    """What is there."""
    return [
        Object(label=classes[label], box=corners(box), verdict="ignored" if ignored else "")
        for box, label, ignored in zip(objects.boxes, objects.labels.tolist(), objects.ignored.tolist(), strict=True)
    ]


def corners(box: np.ndarray) -> tuple[float, float, float, float]:
    """A box `[4]` as plain numbers."""
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom
