"""`RandomAffine` and YOLOX's colors beside MMDetection's own classes with the same draws."""

from unittest import mock

import numpy as np
import pytest

from jaxft.tasks.detection import steps
from jaxft.tasks.detection.steps import apply, draw_affine
from jaxft.tasks.detection.transforms import RandomAffine
from jaxft.tasks.detection.transforms import YOLOXHSVRandomAug as Colors
from tests.tasks.detection.reference import assert_alike, built, draws, scene, without_masks
from tests.tasks.detection.test_steps import Scripted


@pytest.mark.parametrize("border", [(0, 0), (-8, -6), (5, 9)])
@pytest.mark.parametrize("count", [0, 6])
def test_affine(border: tuple[int, int], count: int) -> None:
    clipped = border != (0, 0)
    step = RandomAffine(border=border, border_val=(10, 20, 30), bbox_clip_border=clipped, max_translate_ratio=0.4)
    one = scene(61, 83, count, 1)
    for seed in range(8):
        values = np.random.default_rng(seed).uniform([-10, 0.5, -2, -2, -0.4, -0.4], [10, 1.5, 2, 2, 0.4, 0.4]).tolist()
        found = apply(step, one, Scripted(*values))
        with draws(values):
            expected = built(step)(without_masks(one))
        assert found is not None
        assert found.masks is not None
        assert_alike(found, expected)
        height, width = found.size
        back = np.linalg.inv(draw_affine(step, height, width, Scripted(*values)).astype(np.float64))
        places = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))])
        exact = np.tensordot(back, places, 1)[:2]
        x, y = np.rint(exact).astype(int)
        inside = (x >= 0) & (x < 83) & (y >= 0) & (y < 61)
        wanted = one.masks[:, y.clip(0, 60), x.clip(0, 82)] * inside
        sure = (np.abs(exact - np.floor(exact) - 0.5) > 1e-5).all(0)  # OpenCV finds the nearest pixel in float32
        assert sure.mean() > 0.999
        np.testing.assert_array_equal(found.masks * sure, wanted[found.labels] * sure)


def test_affine_draws_are_mmdetections() -> None:
    step = RandomAffine(max_rotate_degree=20, scaling_ratio_range=(0.3, 0.9), max_shear_degree=7)
    np.random.seed(0)
    ours = [draw_affine(step, 60, 80, np.random.default_rng(seed)) for seed in range(400)]
    transform = built(step)
    wanted = [transform._get_random_homography_matrix(60, 80) for _ in range(400)]
    for function in (np.mean, np.std):
        np.testing.assert_allclose(function(ours, axis=0), function(wanted, axis=0), atol=0.8)


@pytest.mark.parametrize("choice", [(0, 0, 0), (1, 0, 0), (1, 1, 1)])
def test_colors_of_yolox(choice: tuple[int, ...]) -> None:
    one, step = scene(31, 44), Colors(hue_delta=40, saturation_delta=90, value_delta=70)
    for seed in range(5):
        shares = np.random.default_rng(seed).uniform(-1, 1, 3)
        found = apply(step, one, Scripted(shares, np.array(choice)))
        gains = (shares * [40, 90, 70] * choice).astype(np.int16)
        transform = built(step)
        with mock.patch.object(transform, "_get_hsv_gains", return_value=gains):
            expected = transform({"img": np.ascontiguousarray(one.pixels[..., ::-1])})
        assert found is not None
        np.testing.assert_array_equal(found.pixels, expected["img"][..., ::-1])
    np.random.seed(0)
    ours = []
    for seed in range(300):
        with mock.patch.object(steps, "shift_hsv", side_effect=lambda pixels, *gains: ours.append(gains) or pixels):
            apply(step, one, np.random.default_rng(seed))
    transform = built(step)
    wanted = [transform._get_hsv_gains() for _ in range(300)]
    for function in (np.mean, np.std):
        np.testing.assert_allclose(function(ours, axis=0), function(wanted, axis=0), atol=6)
    assert np.mean(np.equal(ours, 0)) == pytest.approx(np.mean(np.equal(wanted, 0)), abs=0.05)
