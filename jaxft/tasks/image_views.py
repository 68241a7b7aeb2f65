"""Views of an image of one label or several: mirrored, in several crops, at several scales."""

import dataclasses
from collections.abc import Sequence
from typing import get_args

import numpy as np

from jaxft.data.dataset import Dataset, FixedTransform, ImageDataset
from jaxft.data.transforms import CenterCrop, Cut, Place
from jaxft.data.views import Mirrored
from jaxft.errors import UserError
from jaxft.tasks.views import Viewing


def image_views(dataset: Dataset, viewing: Viewing) -> list[Dataset]:
    """The dataset as each view has it; all of the shape that the model was trained for.

    Crops are torchvision's `FiveCrop` and `TenCrop` of the resized photo. A scale multiplies the short side before the
    crop, `resize`, so that the model sees a smaller or larger part of the photo.

    Raises:
        UserError: the dataset has no photos to cut, a photo is too small at a scale, or boxes are to be merged.
    """
    if viewing.iou_threshold is not None:
        raise UserError("--tta-iou is a detector's; leave it out.")
    views = _cut(dataset, viewing) if viewing.crops != "center" or viewing.scales != (1.0,) else [dataset]
    return [*views, *map(Mirrored, views)] if viewing.flip else views


def _cut(dataset: Dataset, viewing: Viewing) -> list[Dataset]:
    """The views that are not mirrored copies of others."""
    whole = dataset.fixed if isinstance(dataset, ImageDataset) else None
    if not (isinstance(dataset, ImageDataset) and isinstance(whole, CenterCrop)):
        raise UserError(
            "Crops and scales are cut out of photos, but the dataset has arrays of one size; take flip alone."
        )
    found: list[Dataset] = []
    for scale in viewing.scales:
        larger = dataclasses.replace(whole, resize=round(whole.resize * scale))
        if larger.resize < larger.size:
            raise UserError(
                f"At the scale {scale:g} the short side of a photo is {larger.resize} pixels, and the crop "
                f"{larger.size}; choose a scale of at least {whole.size / whole.resize:.3g}."
            )
        found += [dataclasses.replace(dataset, fixed=fixed) for fixed in _transforms(larger, viewing.crops)]
    return found


def _transforms(whole: CenterCrop, crops: str) -> list[FixedTransform]:
    if crops == "center":
        return [whole]
    mirrors = (False, True) if crops == "ten" else (False,)
    return [Cut(whole=whole, place=place, mirrored=mirror) for mirror in mirrors for place in get_args(Place)]


def log_mean(logs: Sequence[np.ndarray]) -> np.ndarray:
    """The logarithm of the mean of several probabilities from their logarithms, `[N]` each: float64 `[N]`."""
    return np.logaddexp.reduce(np.asarray(logs, np.float64), axis=0) - np.log(len(logs))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities over the last axis, in float64."""
    wide = np.asarray(logits, np.float64)
    return wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)


def log_sigmoid(logits: np.ndarray) -> np.ndarray:
    """The logarithm of `1 / (1 + exp(-logits))`, in float64."""
    return -np.logaddexp(0, -np.asarray(logits, np.float64))
