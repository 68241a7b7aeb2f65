"""Overlaps against MMDetection and torchvision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision.ops
from mmdet.structures.bbox import bbox_overlaps

from jaxft.detection.boxes import IouKind, area, centers, clip, iou, pairwise_iou
from tests.detection import cases

A, B = cases.boxes(0, 23), cases.boxes(1, 17)
A[3] = B[3]  # identical
A[4] = [5, 5, 5, 5]
B[4] = [7, 7, 7, 9]
A[5], B[5] = [10, 10, 20, 20], [20, 10, 30, 20]  # touching


@pytest.mark.parametrize("kind", ["iou", "iof"])
def test_pairwise(kind: str) -> None:
    expected = bbox_overlaps(torch.tensor(A), torch.tensor(B), kind)
    np.testing.assert_allclose(pairwise_iou(jnp.array(A), jnp.array(B), kind), expected, rtol=1e-5, atol=1e-6)


def test_pairwise_with_nothing() -> None:
    assert pairwise_iou(jnp.zeros((0, 4)), jnp.array(B)).shape == (0, 17)
    assert not pairwise_iou(jnp.zeros((3, 4)), jnp.zeros((2, 4))).any()


@pytest.mark.parametrize("kind", ["iou", "giou"])
def test_aligned_overlaps_and_gradients(kind: IouKind) -> None:
    cases.same_as_torch(
        lambda a, b: iou(a, b, kind),
        lambda a, b: bbox_overlaps(a, b, kind, is_aligned=True),
        A[:17],
        B,
        wrt=2,
    )


def test_distance_overlap() -> None:
    """DIoU against torchvision's, which puts eps elsewhere: real boxes only. MMDetection's are in `test_losses`."""
    real = np.array([i for i in range(17) if i not in (3, 4)])
    expected = 1 - torchvision.ops.distance_box_iou_loss(torch.tensor(A[real]), torch.tensor(B[real]))
    found = iou(jnp.array(A[real]), jnp.array(B[real]), "diou", 1e-7)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_padding_gives_finite_gradients(kind: IouKind) -> None:
    zeros, some = jnp.zeros((2, 4)), jnp.array([[1.0, 2, 3, 4], [1, 2, 3, 4]])
    both = jax.jit(jax.value_and_grad(lambda a, b: iou(a, b, kind).sum(), (0, 1)))
    for a, b in [(zeros, zeros), (zeros, some), (some, zeros), (some, some)]:
        value, gradients = both(a, b)
        assert all(jnp.isfinite(part).all() for part in (value, *gradients))


def test_area_centres_clip() -> None:
    np.testing.assert_allclose(area(jnp.array(A)), torchvision.ops.box_area(torch.tensor(A)), rtol=1e-6)
    np.testing.assert_allclose(centers(jnp.array(A))[:, 1], (A[:, 1] + A[:, 3]) / 2)
    wide = A * 2 - 40
    expected = torchvision.ops.clip_boxes_to_image(torch.tensor(wide), (100, 140))
    np.testing.assert_array_equal(clip(jnp.array(wide), jnp.array([100, 140])), expected)
