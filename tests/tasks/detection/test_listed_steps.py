"""Lists of steps: their order, what the simple fields stand for, and what makes no sense."""

import dataclasses
from typing import Any
from unittest import mock

import numpy as np
import pydantic
import pytest

from jaxft.config import Detection
from jaxft.tasks.detection import steps
from jaxft.tasks.detection.scene import Scene
from jaxft.tasks.detection.steps import evaluation_steps, run, training_steps
from jaxft.tasks.detection.transforms import (
    FilterAnnotations,
    Pad,
    PhotoMetricDistortion,
    RandomChoiceResize,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
)
from tests import mmdet_live
from tests.tasks.detection.reference import assert_same, built, scene, theirs

# isort: split
import mmdet.datasets.transforms as reference
from mmdet.registry import TRANSFORMS


@pytest.fixture(autouse=True)
def known_chance() -> None:
    """MMDetection draws from NumPy's global state."""
    np.random.seed(0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def chain(listed: tuple[Any, ...], one: Scene, offset: tuple[int, int]) -> dict[str, Any]:
    """What MMDetection makes of a list of steps."""
    row = theirs(one)
    with mock.patch.object(reference.RandomCrop, "_rand_offset", return_value=offset):
        for step in listed:
            row = built(step)(row)
    return row


def test_steps_run_in_the_order_in_which_they_stand() -> None:
    one = scene(37, 52, 5)
    first, second = Resize(scale=(80, 60), keep_ratio=True), Resize(scale=(45, 50))
    crop = RandomCrop(crop_size=(40, 30), allow_negative_crop=True)
    flip = RandomFlip(prob=1.0)
    results = []
    for listed in ((first, crop, second), (second, first, crop), (crop, first, flip), (crop, flip, first, flip)):
        with mock.patch.object(
            steps, "draw_crop", side_effect=lambda height, width, *_: (4, 3, min(30, height), min(40, width))
        ):
            found = run(listed, one, rng())
        assert_same(found, chain(listed, one, (4, 3)))
        results.append(found.pixels.tobytes())
    assert len(set(results)) == 4


def test_large_scale_jitter_is_that_of_mmdetections_configuration() -> None:
    """Its pipeline for masks, on photos and crops a sixteenth of its size; masks fill a quarter of their boxes, so that
    crops leave some boxes without a pixel."""
    pipeline = [TRANSFORMS.build(step) for step in smaller(mmdet_live.config("lsj-100e_coco-instance.py"))]
    listed = (
        RandomResize(scale=(64, 64), ratio_range=(0.1, 2.0), keep_ratio=True),
        RandomCrop(crop_size=(64, 64), crop_type="absolute_range", recompute_bbox=True, allow_negative_crop=True),
        FilterAnnotations(min_gt_bbox_wh=(0.01, 0.01)),
        RandomFlip(prob=0.5),
    )
    kept, refused, emptied = set(), 0, 0
    for seed in range(60):
        one = quartered(scene(40, 56, 1 + seed % 5, seed))
        with (
            mock.patch.object(steps, "_resized", wraps=steps._resized) as resized,
            mock.patch.object(steps, "crop", wraps=steps.crop) as crop,
            mock.patch.object(steps, "flip", wraps=steps.flip) as flip,
        ):
            found = run(listed, one, rng(seed))
        (before, top, left, height, width), row = crop.call_args.args, theirs(one)
        with (
            mock.patch.object(pipeline[0], "_random_scale", return_value=resized.call_args.args[2]),
            mock.patch.object(pipeline[1], "_get_crop_size", return_value=(height, width)),
            mock.patch.object(pipeline[1], "_rand_offset", return_value=(top, left)),
            mock.patch.object(pipeline[3], "_choose_direction", return_value="horizontal" if flip.called else None),
        ):
            for transform in pipeline:
                row = row and transform(row)
        assert (found is None) == (row is None)
        refused += found is None
        if found is not None:
            assert_same(found, row)
            boxes = before.boxes - [left, top, left, top]
            inside = (boxes[:, :2] < [width, height]).all(1) & (boxes[:, 2:] > 0).all(1)
            emptied += len(found.boxes) < inside.sum()
            kept.add(len(found.boxes))
    assert len(kept) >= 5
    assert refused
    assert emptied


def smaller(config: Any) -> list[dict[str, Any]]:
    """The steps between reading and packing, for photos of 64 pixels in the place of 1024."""
    _, _, resize, crop, filtered, flip, _ = config.train_dataloader.dataset.dataset.pipeline
    return [resize | {"scale": (64, 64)}, crop | {"crop_size": (64, 64)}, filtered, flip]


def quartered(one: Scene) -> Scene:
    """With masks of the upper left quarters of the boxes, in whole pixels, and no box around the whole photo."""
    one.boxes[0] /= 3
    masks = np.zeros_like(one.masks)
    for mask, (x0, y0, x1, y1) in zip(masks, one.boxes.astype(int), strict=True):
        mask[y0 : (y0 + y1) // 2, x0 : (x0 + x1) // 2] = 1
    return dataclasses.replace(one, masks=masks)


def test_the_simple_fields_stand_for_steps() -> None:
    fields = Detection(
        scales=((64, 48), (50, 40)), flip=0.25, distort=True, crop=(0.5, 0.6), crop_kind="relative", rounding="down"
    )
    assert training_steps(fields) == (
        PhotoMetricDistortion(),
        RandomChoiceResize(scales=((64, 48), (50, 40)), keep_ratio=True, rounding="down"),
        RandomCrop(crop_size=(0.5, 0.6), crop_type="relative", allow_negative_crop=True),
        RandomFlip(prob=0.25),
    )
    ranged = Detection(scales=((48, 64), (50, 40)), scale_draw="range")
    assert training_steps(ranged)[0] == RandomResize(scale=((50, 40), (64, 48)), keep_ratio=True)
    assert evaluation_steps(Detection(test_scale=(64, 48))) == (Resize(scale=(64, 48), keep_ratio=True),)
    listed = (Resize(scale=(9, 9)),)
    assert training_steps(Detection(transforms=listed)) == evaluation_steps(Detection(test_transforms=listed)) == listed


TOO_OFTEN = {"type": "RandomFlip", "prob": (0.5, 0.6), "direction": ("vertical", "diagonal")}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"transforms": (Resize(scale=9),), "flip": 0.2}, "flip is given, but transforms"),
        ({"transforms": (Resize(scale=9),), "crop": (9, 9)}, "crop is given, but transforms"),
        ({"test_transforms": (Resize(scale=9),), "test_scale": (9, 9)}, "test_scale is given, but test_transforms"),
        ({"test_transforms": (Pad(size=(9, 9)), Resize(scale=9))}, "Resize after a Pad"),
        ({"test_transforms": (RandomFlip(prob=0.5),)}, "'Resize', 'Pad'"),
        ({"transforms": (FilterAnnotations(by_mask=True),)}, "masks is not set"),
        ({"transforms": ({"type": "Rotate"},)}, "'Rotate' found"),
        ({"transforms": ({"type": "Resize", "scale": 9, "backend": "pillow"},)}, "backend"),
        ({"transforms": ({"type": "Resize"},)}, "scale or scale_factor"),
        ({"transforms": ({"type": "Resize", "scale": 9, "scale_factor": 2.0},)}, "both are given"),
        ({"transforms": ({"type": "RandomResize", "scale": (9, 9)},)}, "ratio_range"),
        ({"transforms": (TOO_OFTEN,)}, "more than 1"),
        ({"transforms": ({"type": "RandomFlip", "prob": (0.5,)},)}, "as many directions"),
        ({"transforms": ({"type": "RandomCrop", "crop_size": (0.5, 0.5)},)}, "whole pixels"),
        ({"transforms": ({"type": "Pad", "size": (9, 9), "size_divisor": 32},)}, "either size"),
        ({"transforms": ({"type": "Pad", "size": (9, 9), "padding_mode": "edge"},)}, "padding_mode"),
        ({"crop": (0.5, 0.5)}, "whole pixels"),
        ({"scales": ((0, 9),)}, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=named):
        Detection(**options)
