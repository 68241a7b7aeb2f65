"""Anchors and points against MMDetection's generators and torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator, anchor_inside_flags
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionGenerator

from jaxft.detection.anchors import base_anchors, grid_anchors, grid_points, inside_flags, octave_scales, valid_flags
from tests import mmdet_live

RATIOS = (0.5, 1.0, 2.0)
MAPS = [(7, 9), (4, 5)]


@pytest.mark.parametrize("scale_major", [True, False])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_mmdetections_anchors(scale_major: bool, offset: float) -> None:
    theirs = AnchorGenerator(
        [8, 16], RATIOS, octave_base_scale=4, scales_per_octave=3, scale_major=scale_major, center_offset=offset
    )
    for stride, size, expected in zip((8, 16), MAPS, theirs.grid_priors(MAPS, device="cpu"), strict=True):
        base = base_anchors(stride, octave_scales(4, 3), RATIOS, center_offset=offset, scale_major=scale_major)
        assert base.dtype == np.float32
        np.testing.assert_allclose(grid_anchors(base, size, stride), expected, rtol=1e-6, atol=1e-5)


def test_anchors_around_a_given_center() -> None:
    theirs = AnchorGenerator([(16, 8)], [1.0, 2.0], scales=[1.0, 3.0], base_sizes=[10], centers=[(8.0, 4.0)])
    base = base_anchors(10, (1.0, 3.0), (1.0, 2.0), center=(8.0, 4.0))
    expected = theirs.grid_priors([(3, 5)], device="cpu")[0]  # MMDetection's strides are (width, height)
    np.testing.assert_allclose(grid_anchors(base, (3, 5), (8, 16)), expected, rtol=1e-6, atol=1e-5)


def test_torchvisions_anchors() -> None:
    """Rounded to whole pixels, halves to the even one."""
    theirs = TorchvisionGenerator(((32,), (45, 57)), (RATIOS,) * 2)
    expected = theirs.grid_anchors([[7, 9], [4, 5]], [[torch.tensor(8), torch.tensor(8)], [torch.tensor(15)] * 2])
    for sizes, size, stride, grid in zip(((32,), (45, 57)), MAPS, (8, 15), expected, strict=True):
        np.testing.assert_array_equal(grid_anchors(base_anchors(1, sizes, RATIOS, round_=True), size, stride), grid)


def test_a_program_makes_them_of_one_cell() -> None:
    """The very numbers of NumPy, and no constant that grows with the map."""
    base, (rows, columns), (down, across) = base_anchors(8, octave_scales(4, 3), RATIOS), (100, 168), (8, 16)
    program = jax.jit(lambda: (grid_anchors(base, (rows, columns), (down, across)), grid_points((rows, columns), down)))
    assert len(program.lower().as_text()) < 10_000
    anchors, points = program()
    y, x = np.meshgrid(np.arange(rows) * down, np.arange(columns) * across, indexing="ij")
    shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4).astype(np.float32)
    np.testing.assert_array_equal(anchors, (shifts + base).reshape(-1, 4))
    y, x = np.meshgrid((np.arange(rows) + 0.5) * down, (np.arange(columns) + 0.5) * down, indexing="ij")
    np.testing.assert_array_equal(points, np.stack([x, y], -1).reshape(-1, 2).astype(np.float32))


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_points(offset: float) -> None:
    with mmdet_live.quiet():
        expected = MlvlPointGenerator([8, 16], offset).grid_priors(MAPS, device="cpu")
    for size, stride, points in zip(MAPS, (8, 16), expected, strict=True):
        np.testing.assert_array_equal(grid_points(size, stride, offset), points)


@pytest.mark.parametrize("photo", [(56, 72), (40, 33), (64, 1)])
def test_flags(photo: tuple[int, int]) -> None:
    theirs = AnchorGenerator([8], RATIOS, scales=[2])
    padded = tuple(-(-side // 32) * 32 for side in photo)
    valid = theirs.valid_flags([(8, 9)], padded, device="cpu")[0]
    found = valid_flags((8, 9), 8, jnp.array(photo), 3, 32)
    np.testing.assert_array_equal(found, valid)
    anchors = grid_anchors(base_anchors(8, (2,), RATIOS), (8, 9), 8)
    for border in (-1, 0, 10):
        expected = anchor_inside_flags(torch.tensor(anchors), torch.ones(len(anchors), dtype=torch.bool), photo, border)
        np.testing.assert_array_equal(inside_flags(jnp.array(anchors), jnp.array(photo), border), expected)
