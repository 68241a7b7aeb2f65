"""What was found in a photo: from the padded array back to the photo as it is stored."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from jaxft.detection.masks import paste
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


def on_photo(prediction: Mapping[str, np.ndarray], example: Annotated) -> Found:
    """One photo's part of `jaxft.tasks.detection.task.DetectionTask.predict`, in pixels of the stored photo."""
    height, width = (int(side) for side in prediction["size"])
    stretch = np.array([example.width / width, example.height / height] * 2)
    real = np.flatnonzero(prediction["valid"])
    real = real[np.argsort(-prediction["scores"][real], kind="stable")]
    boxes = prediction["boxes"][real].astype(np.float64) * stretch
    codes: tuple[dict[str, Any], ...] = ()
    if "masks" in prediction:
        pasted = (
            paste(prediction["masks"][row][None], box[None], example.height, example.width)[0]
            for row, box in zip(real, boxes, strict=True)  # one at a time: a hundred full photos need much memory
        )
        codes = tuple(run_length_code(mask) for mask in pasted)
    return Found(boxes, prediction["scores"][real].astype(np.float64), prediction["labels"][real], codes)


def run_length_code(mask: np.ndarray) -> dict[str, Any]:
    """The run-length code of a bool mask `[height, width]`, as JSON takes it."""
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}
