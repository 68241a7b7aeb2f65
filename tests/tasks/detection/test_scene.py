"""Resizing, flips, crops and colors, against live MMDetection."""

from unittest import mock

import mmcv
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.mmdet_live  # noqa: F401  # registers what MMDetection wants of mmcv before it is imported
from jaxft.tasks.detection.scene import crop, flip, resize, resized_size
from jaxft.tasks.detection.steps import draw_distortion
from jaxft.tasks.detection.transforms import PhotoMetricDistortion as Distortion
from tests.tasks.detection.reference import assert_same, scene, theirs

# isort: split
from mmdet.datasets.transforms import PhotoMetricDistortion, RandomCrop, RandomFlip, Resize

SIZES = [(480, 640), (333, 500), (640, 427), (37, 91), (50, 50)]


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


@pytest.mark.parametrize("seed", range(12))
def test_colors_are_mmdetections(seed: int) -> None:
    pixels = scene(12, 17, seed=seed).pixels
    draw = draw_distortion(Distortion(), np.random.default_rng(seed))
    order = np.array(draw.order)
    reverse = 2 - order[::-1]  # the same permutation of B, G, R
    values = (draw.brightness, draw.contrast, draw.saturation, draw.hue, reverse)
    flags = (int(draw.contrast_first), 1, 1, 1, 1, 1)  # the first is 1 where contrast comes before saturation and hue
    with mock.patch.object(PhotoMetricDistortion, "_random_flags", return_value=(*flags, *values)):
        expected = PhotoMetricDistortion()({"img": np.ascontiguousarray(pixels[..., ::-1])})["img"][..., ::-1]
    np.testing.assert_allclose(draw(pixels), np.clip(expected, 0, 255), atol=0.51)
