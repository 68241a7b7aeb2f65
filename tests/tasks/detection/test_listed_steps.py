"""Lists of steps: their order, what the simple fields stand for, and what makes no sense."""

from typing import Any
from unittest import mock

import numpy as np
import pydantic
import pytest

import tests.mmdet_live  # noqa: F401
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
from tests.tasks.detection.reference import assert_same, built, scene, theirs

# isort: split
import mmdet.datasets.transforms as reference


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
