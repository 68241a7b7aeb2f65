"""What was found in a photo: from the padded array back to the photo as it is stored."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from jaxft.detection.masks import pasted_runs
from jaxft.tasks.detection.objects import Annotated


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
    codes: tuple[dict[str, Any], ...] = ()

    def above(self, least: float) -> "Found":
        """The objects with at least this score."""
        kept = np.flatnonzero(self.scores >= least)
        codes = tuple(self.codes[index] for index in kept) if self.codes else ()
        return Found(self.boxes[kept], self.scores[kept], self.labels[kept], codes)


def on_photo(prediction: Mapping[str, np.ndarray], example: Annotated, *, masks: bool = True) -> Found:
    """One photo's part of `jaxft.tasks.detection.task.DetectionTask.predict`, in pixels of the stored photo.

    Without `masks` there are no codes of masks, which take most of the time.
    """
    height, width = (int(side) for side in prediction["size"])
    stretch = np.array([example.width / width, example.height / height] * 2)
    real = np.flatnonzero(prediction["valid"])
    real = real[np.argsort(-prediction["scores"][real], kind="stable")]
    boxes = prediction["boxes"][real].astype(np.float64) * stretch
    codes, size = tuple[dict[str, Any], ...](), (example.height, example.width)
    if masks and "masks" in prediction:
        codes = tuple(
            run_length_code(pasted_runs(prediction["masks"][row], box, *size), size)
            for row, box in zip(real, boxes, strict=True)
        )
    return Found(boxes, prediction["scores"][real].astype(np.float64), prediction["labels"][real], codes)


def run_length_code(lengths: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's code of run lengths in a photo of that height and width, as JSON takes it."""
    code = coco_mask.frPyObjects({"size": size, "counts": lengths.tolist()}, *size)
    return {"size": list(size), "counts": code["counts"].decode()}
