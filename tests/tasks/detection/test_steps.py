"""Every step beside MMDetection's and mmcv's own class with the same draws, and lists of steps."""

from typing import Any
from unittest import mock

import numpy as np
import pytest

import tests.mmdet_live  # noqa: F401
from jaxft.tasks.detection import steps
from jaxft.tasks.detection.steps import apply, run
from jaxft.tasks.detection.transforms import (
    Expand,
    FilterAnnotations,
    MinIoURandomCrop,
    Pad,
    PhotoMetricDistortion,
    RandomChoice,
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


class Scripted:
    """Chance that is known: each call of any method gives the next value."""

    def __init__(self, *values: Any) -> None:
        self.values = list(values)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.values.pop(0)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (90, 60), "keep_ratio": True},
        {"scale": (60, 90), "keep_ratio": True},
        {"scale": (70, 30)},
        {"scale": 50},
        {"scale": (70, 30), "interpolation": "nearest"},
        {"scale": (70, 30), "interpolation": "bicubic"},
        {"scale": (20, 15), "interpolation": "area", "keep_ratio": True},
        {"scale": (90, 70), "interpolation": "lanczos"},
        {"scale_factor": 1.5},
        {"scale_factor": (0.5, 1.3)},
        {"scale_factor": (0.5, 1.3), "keep_ratio": True},
    ],
)
@pytest.mark.parametrize("count", [0, 4])
def test_resize(options: dict[str, Any], count: int) -> None:
    one, step = scene(37, 52, count), Resize(**options)
    assert_same(apply(step, one, rng()), built(step)(theirs(one)))


@pytest.mark.parametrize("clipped", [False, True])
def test_borders_clip_boxes_where_they_are_to(clipped: bool) -> None:
    one = scene(37, 52, 4)
    place = (5, 9, 20, 25)
    step = RandomCrop(crop_size=(25, 20), allow_negative_crop=True, bbox_clip_border=clipped)
    with mock.patch.object(steps, "draw_crop", return_value=place):
        cut = apply(step, one, rng())
    with mock.patch.object(reference.RandomCrop, "_rand_offset", return_value=place[:2]):
        expected = built(step)(theirs(one))
    assert_same(cut, expected)
    assert (cut.boxes[:, 2:].max() > 25) is not clipped
    again = Resize(scale=(50, 40), clip_object_border=clipped)
    assert_same(apply(again, cut, rng()), built(again)(expected))


@pytest.mark.parametrize(
    "step",
    [
        RandomResize(scale=((90, 60), (30, 40)), keep_ratio=True),
        RandomResize(scale=((90, 60), (30, 40)), interpolation="area"),
        RandomResize(scale=(60, 60), ratio_range=(0.1, 2.0), keep_ratio=True),
        RandomResize(scale=(60, 40), ratio_range=(0.5, 1.5)),
        RandomChoiceResize(scales=((90, 60), (30, 40), (50, 50)), keep_ratio=True),
        RandomChoiceResize(scales=((90, 60), (30, 40), (50, 50))),
    ],
)
def test_random_resizes(step: Any) -> None:
    one, transform, drawn, wanted = scene(37, 52), built(step), [], []
    name = "_random_scale" if step.type == "RandomResize" else "_random_select"
    for seed in range(200):
        with mock.patch.object(steps, "_resized", wraps=steps._resized) as resized:
            found = apply(step, one, rng(seed))
        drawn.append(resized.call_args.args[2])
        wanted.append(getattr(transform, name)())
        if seed < 10:
            value = drawn[-1] if step.type == "RandomResize" else (drawn[-1], 0)
            with mock.patch.object(type(transform), name, return_value=value):
                assert_same(found, transform(theirs(one)))
    if step.type == "RandomResize":
        for function in (np.min, np.mean, np.max):
            np.testing.assert_allclose(function(drawn, axis=0), function(wanted, axis=0), atol=10)
    else:
        assert set(drawn) == {scale for scale, _ in wanted}


@pytest.mark.parametrize(
    ("prob", "direction"),
    [
        (0.5, "horizontal"),
        (0.6, "vertical"),
        (1.0, "diagonal"),
        (0.6, ("horizontal", "vertical")),
        ((0.2, 0.5), ("vertical", "diagonal")),
        (0.9, ("horizontal", "vertical", "diagonal")),
    ],
)
@pytest.mark.parametrize("count", [0, 3])
def test_flips(prob: Any, direction: Any, count: int) -> None:
    one, step = scene(31, 44, count), RandomFlip(prob=prob, direction=direction)
    transform, drawn = built(step), []
    for seed in range(400):
        with mock.patch.object(steps, "flip", wraps=steps.flip) as flip:
            found = apply(step, one, rng(seed))
        drawn.append(flip.call_args.args[1] if flip.called else None)
        if seed < 5:
            with mock.patch.object(transform, "_choose_direction", return_value=drawn[-1]):
                assert_same(found, transform(theirs(one)))
    with mock.patch.object(np.random, "choice") as choice:
        transform._choose_direction()
    shares = dict(zip(choice.call_args.args[0], choice.call_args.kwargs["p"], strict=True))
    for one_direction in (None, "horizontal", "vertical", "diagonal"):
        assert drawn.count(one_direction) / 400 == pytest.approx(shares.get(one_direction, 0), abs=0.1)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("absolute", (30, 20)),
        ("absolute", (300, 20)),
        ("absolute_range", (10, 35)),
        ("relative", (0.7, 0.5)),
        ("relative_range", (0.3, 0.5)),
    ],
)
def test_crops(kind: Any, numbers: tuple[float, float], recompute: bool) -> None:
    one = scene(31, 44, 6)
    step = RandomCrop(crop_size=numbers, crop_type=kind, allow_negative_crop=True, recompute_bbox=recompute)
    transform, ours, sizes = built(step), [], []
    for seed in range(300):
        top, left, height, width = steps.draw_crop(31, 44, step, rng(seed))
        assert 0 <= top <= 31 - height
        assert 0 <= left <= 44 - width
        ours.append((height, width))
        sizes.append(transform._get_crop_size((31, 44)))
        if seed < 10:
            place = {"_get_crop_size": mock.Mock(return_value=(height, width))}
            place["_rand_offset"] = mock.Mock(return_value=(top, left))
            with mock.patch.multiple(reference.RandomCrop, **place):
                assert_same(apply(step, one, rng(seed)), transform(theirs(one)))
    if "range" not in kind:
        assert set(ours) == set(sizes)
    for function in (np.min, np.max):
        np.testing.assert_allclose(function(ours, axis=0), function(sizes, axis=0), atol=3)


def test_a_crop_without_objects_is_refused_as_by_mmdetection() -> None:
    one = scene(31, 44, 1)
    one.boxes[:] = [0, 0, 5, 5]
    for place, left in (((0, 0, 10, 10), 1), ((10, 10, 10, 10), 0)):
        for allowed in (False, True):
            step = RandomCrop(crop_size=(10, 10), allow_negative_crop=allowed)
            with mock.patch.object(steps, "draw_crop", return_value=place):
                found = apply(step, one, rng())
            with mock.patch.object(reference.RandomCrop, "_rand_offset", return_value=place[:2]):
                expected = built(step)(theirs(one))
            assert (found is None) == (expected is None) == (not left and not allowed)
            assert found is None or len(found.boxes) == left


@pytest.mark.parametrize(
    "options",
    [
        {"size": (60, 40)},
        {"size": (30, 50)},
        {"size_divisor": 32},
        {"pad_to_square": True},
        {"pad_to_square": True, "size_divisor": 16},
        {"size": (60, 40), "pad_val": (124, 116, 104)},
        {"size_divisor": 16, "pad_val": 114},
    ],
)
@pytest.mark.parametrize("count", [0, 3])
def test_pad(options: dict[str, Any], count: int) -> None:
    one, step = scene(37, 52, count), Pad(**options)
    value = step.pad_val if isinstance(step.pad_val, tuple) else int(step.pad_val)
    assert_same(apply(step, one, rng()), built(step, pad_val={"img": value, "seg": 255})(theirs(one)))


@pytest.mark.parametrize("to_rgb", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 1.7, 3.9])
def test_expand(ratio: float, to_rgb: bool) -> None:
    one, step = scene(31, 44), Expand(mean=(123.675, 116.28, 103.53), to_rgb=to_rgb)
    found = apply(step, one, Scripted(0.4, (ratio, 0.3, 0.8)))
    left, top = int(0.3 * (44 * ratio - 44)), int(0.8 * (31 * ratio - 31))
    values = {"_random_prob": 0.4, "_random_ratio": ratio, "_random_left_top": (left, top)}
    draws = {name: mock.Mock(return_value=value) for name, value in values.items()}
    flipped = theirs(one) | {"img": np.ascontiguousarray(one.pixels[..., ::-1])}  # MMDetection's photos are B, G, R
    with mock.patch.multiple(reference.Expand, **draws):
        expected = built(step)(flipped)
    expected["img"] = expected["img"][..., ::-1]
    assert_same(found, expected)
    assert apply(step, one, Scripted(0.6)) is one


def test_crops_with_a_least_overlap() -> None:
    """Parts of all kinds, most of which are refused; the two must agree on which."""
    refused = 0
    for seed in range(60):
        chance = rng(seed)
        one, least = scene(60, 80, 1 + seed % 4, seed), chance.choice([0.0, 0.1, 0.3, 0.5])
        step, values, shares = MinIoURandomCrop(), [], []
        for draw in chance.uniform([0.3, 0.3, 0, 0], 1, (50, 4)):
            sides = draw[:2] * [80, 60]
            square = 0.5 <= sides[1] / sides[0] <= 2
            shares.append(draw)
            values += [*sides, *(draw[2:] * ([80, 60] - sides) if square else ())]
        found = apply(step, one, Scripted(least, *shares, 1.0))
        modes = {"_random_mode": mock.Mock(side_effect=[least, 1])}
        with (
            mock.patch.multiple(reference.MinIoURandomCrop, **modes),
            mock.patch("mmdet.datasets.transforms.transforms.random.uniform", side_effect=values),
        ):
            expected = built(step)(theirs(one))
        refused += found is one
        assert_same(found, expected)
    assert 0 < refused < 40


@pytest.mark.parametrize(
    "options",
    [
        {"min_gt_bbox_wh": (8, 3)},
        {"min_gt_bbox_wh": (8, 3), "by_mask": True, "min_gt_mask_area": 520},
        {"by_box": False, "by_mask": True, "min_gt_mask_area": 520},
        {"min_gt_bbox_wh": (80, 3)},
        {"min_gt_bbox_wh": (80, 3), "keep_empty": False},
    ],
)
@pytest.mark.parametrize("count", [0, 8])
def test_filters(options: dict[str, Any], count: int) -> None:
    one, step = scene(30, 35, count), FilterAnnotations(**options)
    found, expected = apply(step, one, rng()), built(step)(theirs(one))
    assert (found is None) == (expected is None)
    if found is not None:
        assert_same(found, expected)
        assert not count or len(found.boxes) < count


def test_distortion_stays_within_its_ranges() -> None:
    step = PhotoMetricDistortion(brightness_delta=5, contrast_range=(0.9, 1), saturation_range=(1, 2), hue_delta=3)
    draws = [steps.draw_distortion(step, rng(seed)) for seed in range(400)]
    for name, (low, high), neutral in (
        ("brightness", (-5, 5), 0.0),
        ("contrast", (0.9, 1), 1.0),
        ("saturation", (1, 2), 1.0),
        ("hue", (-3, 3), 0.0),
    ):
        values = np.array([getattr(draw, name) for draw in draws])
        assert low <= values.min() <= low + 0.1 * (high - low) or neutral == low
        assert high - 0.1 * (high - low) <= values.max() <= high
        assert np.mean(values != neutral) == pytest.approx(0.5, abs=0.1)
    assert np.mean([draw.contrast_first for draw in draws]) == pytest.approx(0.5, abs=0.1)


def test_one_of_several_lists_is_run() -> None:
    lists = ((Resize(scale=(20, 10)), RandomFlip(prob=1.0)), (Resize(scale=(30, 10)),))
    one = scene(31, 44)
    wanted = {10 * 20 * 3: run(lists[0], one, rng()), 10 * 30 * 3: run(lists[1], one, rng())}
    for prob, share in ((None, 0.5), ((0.9, 0.1), 0.9), ((0.0, 1.0), 0.0)):
        found = [apply(RandomChoice(transforms=lists, prob=prob), one, rng(seed)) for seed in range(200)]
        for scene_of_one in found:
            np.testing.assert_array_equal(scene_of_one.pixels, wanted[scene_of_one.pixels.size].pixels)
        assert np.mean([other.size[1] == 20 for other in found]) == pytest.approx(share, abs=0.1)
