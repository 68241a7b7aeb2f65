"""Views of photos with objects, mirrored and at several scales, and their boxes merged as MMDetection's `DetTTAModel`
(mmdet/models/test_time_augs/det_tta.py) does it."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from jaxft.detection.nms import nms
from jaxft.errors import UserError
from jaxft.tasks.detection.dataset import ObjectDataset, with_steps
from jaxft.tasks.detection.found import on_photo
from jaxft.tasks.detection.steps import Steps
from jaxft.tasks.detection.transforms import Pad, RandomFlip, Resize, WidthHeight
from jaxft.tasks.task import Prediction
from jaxft.tasks.views import Viewed, Viewing

suppressed = partial(jax.jit, static_argnames="max_output")(nms)


def object_views(dataset: ObjectDataset, viewing: Viewing) -> Viewed:
    """A dataset of photos as each view has it, and what merges what is found in them.

    Raises:
        UserError: crops or a temperature are asked for, masks are to be found, or nothing resizes the photos.
    """
    if viewing.temperature != 1:
        raise UserError("The task is detection, which calibrates nothing: there is no temperature of scores of boxes.")
    if viewing.several and dataset.settings.masks:
        raise UserError(
            "The model finds masks, which cannot be merged from several views, as in MMDetection; leave --tta out."
        )
    if viewing.crops != "center":
        raise UserError(f"The task is detection, which takes flip and scales, but no crops; leave {viewing.crops} out.")
    if not viewing.several:
        return Viewed([dataset], lambda _, found: found[0])
    views, flipped = list[ObjectDataset](), list[bool]()
    for scale in viewing.scales:
        scaled = dataset if scale == 1 else with_steps(dataset, _scaled(dataset.steps, scale))
        views += [scaled, with_steps(scaled, _mirrored(scaled.steps))] if viewing.flip else [scaled]
        flipped += [False, True] if viewing.flip else [False]
    return Viewed(views, partial(_merged, dataset, flipped, viewing.iou_threshold or 0.5))


def _scaled(steps: Steps, factor: float) -> Steps:
    """The steps with every `Resize` to a size that is larger by a factor.

    Raises:
        UserError: there is none.
    """
    if not any(isinstance(step, Resize) for step in steps):
        raise UserError("Nothing resizes the photos in task.test_transforms, so that there are no scales; take flip.")
    return [_times(step, factor) if isinstance(step, Resize) else step for step in steps]


def _times(step: Resize, factor: float) -> Resize:
    if step.scale_factor is not None:
        across, down = step.scale_factor
        return dataclasses.replace(step, scale_factor=(across * factor, down * factor))
    assert step.scale is not None
    scale: WidthHeight = (round(step.scale[0] * factor), round(step.scale[1] * factor))
    return dataclasses.replace(step, scale=scale)


def _mirrored(steps: Steps) -> Steps:
    """The steps with a flip after the resize, before any padding."""
    place = next((place for place, step in enumerate(steps) if isinstance(step, Pad)), len(steps))
    return [*steps[:place], RandomFlip(prob=1.0), *steps[place:]]


def _merged(
    dataset: ObjectDataset, flipped: Sequence[bool], threshold: float, index: int, found: Sequence[Prediction]
) -> Prediction:
    """The boxes of all views on the stored photo: those of one class that overlap too much lose against the best, and
    as many stay as the model gives of one view."""
    example, rows = dataset.source[index], len(found[0]["valid"])
    boxes, scores, labels, valid = (
        np.zeros((rows * len(found), 4), np.float32),
        np.zeros(rows * len(found), np.float32),
        np.zeros(rows * len(found), np.int32),
        np.zeros(rows * len(found), bool),
    )
    for view, (prediction, mirrored) in enumerate(zip(found, flipped, strict=True)):
        there = on_photo(prediction, example, masks=False)
        place = slice(view * rows, view * rows + len(there.scores))
        boxes[place] = there.boxes
        if mirrored:
            boxes[place, 0::2] = example.width - there.boxes[:, 2::-2]
        scores[place], labels[place], valid[place] = there.scores, there.labels, True
    kept, real = (np.asarray(array) for array in suppressed(boxes, scores, labels, valid, threshold, max_output=rows))
    return {
        "boxes": np.where(real[:, None], boxes[kept], 0),
        "scores": np.where(real, scores[kept], 0),
        "labels": np.where(real, labels[kept], 0),
        "valid": real,
        "size": np.array([example.height, example.width], np.int32),
    }
