"""Resizing, flips, crops and colors, against live MMDetection."""

from typing import Any
from unittest import mock

import mmcv
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.mmdet_live  # noqa: F401  # registers what MMDetection wants of mmcv before it is imported
from jaxft.tasks.detection.scene import (
    Distortion,
    Scene,
    crop,
    draw_crop,
    draw_distortion,
    flip,
    largest_crop,
    resize,
    resized_size,
)

# isort: split
from mmdet.datasets.transforms import PhotoMetricDistortion, RandomCrop, RandomFlip, Resize
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks

SIZES = [(480, 640), (333, 500), (640, 427), (37, 91), (50, 50)]


def scene(height: int, width: int, count: int = 3, seed: int = 0) -> Scene:
    """A photo of noise with boxes of all kinds, also some that touch the border, and random masks."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [width, height]
    boxes = corners.reshape(count, 4).astype(np.float32)
    if count:
        boxes[0] = [0, 0, width, height]
    return Scene(
        rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        boxes,
        np.arange(count, dtype=np.int32),
        np.arange(count) == 1,
        rng.integers(0, 2, (count, height, width)).astype(np.uint8),
    )


def theirs(one: Scene) -> dict[str, Any]:
    """The same for MMDetection."""
    return {
        "img": one.pixels.copy(),
        "img_shape": one.size,
        "ori_shape": one.size,
        "gt_bboxes": HorizontalBoxes(one.boxes.copy()),
        "gt_bboxes_labels": one.labels.copy(),
        "gt_ignore_flags": one.ignored.copy(),
        "gt_masks": BitmapMasks(one.masks.copy(), *one.size),
    }


def assert_same(one: Scene, other: dict[str, Any]) -> None:
    np.testing.assert_array_equal(one.pixels, other["img"])
    np.testing.assert_allclose(one.boxes, other["gt_bboxes"].tensor.numpy(), rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(one.labels, other["gt_bboxes_labels"])
    np.testing.assert_array_equal(one.ignored, other["gt_ignore_flags"])
    np.testing.assert_array_equal(one.masks, other["gt_masks"].masks)


@pytest.mark.parametrize("scale", [(1333, 800), (320, 240), (64, 64)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resizing_is_mmdetections(height: int, width: int, scale: tuple[int, int]) -> None:
    one = scene(height, width)
    size = resized_size(height, width, scale)
    assert_same(resize(one, *size), Resize(scale=scale, keep_ratio=True)(theirs(one)))


@settings(max_examples=300, deadline=None)
@given(*[st.integers(1, 3000)] * 2, st.tuples(st.integers(16, 2000), st.integers(16, 2000)))
def test_resized_sizes_are_mmdetections(height: int, width: int, scale: tuple[int, int]) -> None:
    expected_width, expected_height = mmcv.rescale_size((width, height), scale)
    assert resized_size(height, width, scale) == (max(expected_height, 1), max(expected_width, 1))


def test_torchvision_rounds_down() -> None:
    assert resized_size(100, 150, (1333, 99), "down") == (99, 148)
    assert resized_size(100, 150, (1333, 99), "nearest") == (99, 149)


@pytest.mark.parametrize("count", [0, 3])
def test_flipping_is_mmdetections(count: int) -> None:
    one = scene(31, 44, count)
    assert_same(flip(one), RandomFlip(prob=1.0)(theirs(one)))


@pytest.mark.parametrize("place", [(0, 0), (3, 11), (11, 14)])
def test_cropping_is_mmdetections(place: tuple[int, int]) -> None:
    one = scene(31, 44, 6)
    transform = RandomCrop((30, 20), allow_negative_crop=True)
    with mock.patch.object(RandomCrop, "_rand_offset", return_value=place):
        expected = transform(theirs(one))
    found = crop(one, *place, 20, 30)
    assert_same(found, expected)


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
def test_crops_are_of_the_size_that_mmdetection_draws(kind: Any, numbers: tuple[float, float]) -> None:
    height, width = 31, 44
    ours, reference = set(), set()
    transform = RandomCrop(numbers, crop_type=kind)
    rng = np.random.default_rng(0)
    for _ in range(300):
        top, left, crop_height, crop_width = draw_crop(height, width, numbers, kind, rng)
        assert 0 <= top <= height - crop_height
        assert 0 <= left <= width - crop_width
        ours.add((crop_height, crop_width))
        reference.add(tuple(int(side) for side in transform._get_crop_size((height, width))))
    if "range" not in kind:
        assert ours == reference
    most = largest_crop(height, width, numbers, kind)
    for axis in (0, 1):
        low, high = (f(size[axis] for size in reference) for f in (min, max))
        assert min(size[axis] for size in ours) == pytest.approx(low, abs=3)
        assert max(size[axis] for size in ours) == pytest.approx(high, abs=3)
        assert max(size[axis] for size in ours) <= most[axis]


@pytest.mark.parametrize("seed", range(12))
def test_colors_are_mmdetections(seed: int) -> None:
    pixels = scene(12, 17, seed=seed).pixels
    draw = draw_distortion(np.random.default_rng(seed))
    order = np.array(draw.order)
    reverse = 2 - order[::-1]  # the same permutation of B, G, R
    values = (draw.brightness, draw.contrast, draw.saturation, draw.hue, reverse)
    flags = (int(draw.contrast_first), 1, 1, 1, 1, 1)  # the first is 1 where contrast comes before saturation and hue
    with mock.patch.object(PhotoMetricDistortion, "_random_flags", return_value=(*flags, *values)):
        expected = PhotoMetricDistortion()({"img": np.ascontiguousarray(pixels[..., ::-1])})["img"][..., ::-1]
    np.testing.assert_allclose(draw(pixels), np.clip(expected, 0, 255), atol=0.51)


def test_each_change_of_color_comes_half_the_time() -> None:
    draws = [draw_distortion(np.random.default_rng(seed)) for seed in range(400)]
    for name, neutral in (("brightness", 0.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.0)):
        assert np.mean([getattr(draw, name) != neutral for draw in draws]) == pytest.approx(0.5, abs=0.1)
    assert np.mean([draw.contrast_first for draw in draws]) == pytest.approx(0.5, abs=0.1)
    pixels = scene(5, 6).pixels
    assert np.abs(Distortion()(pixels).astype(int) - pixels).max() <= 1
