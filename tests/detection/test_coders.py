"""Box coders against MMDetection's and torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from mmdet.models.task_modules.coders import TBLRBBoxCoder
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import bbox2delta, delta2bbox
from mmdet.structures.bbox import bbox2distance, distance2bbox
from torchvision.models.detection._utils import BoxCoder

from jaxft.detection import coders
from tests.detection import cases

BOXES, TARGETS = cases.boxes(0, 19), cases.boxes(1, 19)
MEANS, STDS = (0.1, -0.1, 0.0, 0.2), (0.1, 0.1, 0.2, 0.3)
DELTAS = np.random.default_rng(2).normal(size=(19, 4)).astype(np.float32) * 6
SIZE = np.array([110, 150])


def test_deltas() -> None:
    expected = bbox2delta(torch.tensor(BOXES), torch.tensor(TARGETS), MEANS, STDS)
    found = coders.encode_deltas(jnp.array(BOXES), jnp.array(TARGETS), MEANS, STDS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    back = coders.decode_deltas(jnp.array(BOXES), found, MEANS, STDS)
    np.testing.assert_allclose(back, TARGETS, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("ctr_clamp", [False, True])
def test_decoded_deltas_and_gradients(clip: bool, ctr_clamp: bool) -> None:
    options = {"add_ctr_clamp": ctr_clamp, "ctr_clamp": 8}
    cases.same_as_torch(
        lambda deltas, boxes: coders.decode_deltas(
            boxes, deltas, MEANS, STDS, size=jnp.array(SIZE) if clip else None, **options
        ),
        lambda deltas, boxes: delta2bbox(boxes, deltas, MEANS, STDS, tuple(SIZE) if clip else None, **options),
        DELTAS,
        BOXES,
    )


def test_deltas_of_classes_share_a_box() -> None:
    deltas = np.random.default_rng(3).normal(size=(19, 5, 4)).astype(np.float32)
    expected = delta2bbox(torch.tensor(BOXES), torch.tensor(deltas.reshape(19, 20)), stds=STDS).reshape(19, 5, 4)
    found = coders.decode_deltas(jnp.array(BOXES)[:, None], jnp.array(deltas), stds=STDS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_torchvisions_deltas() -> None:
    weights = (10.0, 10.0, 5.0, 5.0)
    stds = tuple(1 / weight for weight in weights)
    theirs = BoxCoder(weights)
    encoded = theirs.encode_single(torch.tensor(TARGETS), torch.tensor(BOXES))
    np.testing.assert_allclose(
        coders.encode_deltas(jnp.array(BOXES), jnp.array(TARGETS), stds=stds), encoded, rtol=1e-5, atol=1e-4
    )
    decoded = theirs.decode_single(torch.tensor(DELTAS * 20), torch.tensor(BOXES))
    found = coders.decode_deltas(jnp.array(BOXES), jnp.array(DELTAS * 20), stds=stds, clamp_below=False)
    np.testing.assert_allclose(found, decoded, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("limit", [None, 16.0])
def test_distances(limit: float | None) -> None:
    points = cases.boxes(3, 19)[:, :2]
    expected = bbox2distance(torch.tensor(points), torch.tensor(TARGETS), limit)
    found = coders.encode_distances(jnp.array(points), jnp.array(TARGETS), limit)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for size in (None, SIZE):
        cases.same_as_torch(
            lambda distances, points, size=size: coders.decode_distances(
                points, distances, None if size is None else jnp.array(size)
            ),
            lambda distances, points, size=size: distance2bbox(
                points, distances, None if size is None else tuple(size)
            ),
            DELTAS * 5,
            points,
        )


@pytest.mark.parametrize("normalizer", [4.0, (1.0, 2.0, 3.0, 4.0)])
def test_tblr(normalizer: float | tuple[float, ...]) -> None:
    theirs = TBLRBBoxCoder(normalizer)
    expected = theirs.encode(torch.tensor(BOXES), torch.tensor(TARGETS))
    found = coders.encode_tblr(jnp.array(BOXES), jnp.array(TARGETS), normalizer)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    decoded = theirs.decode(torch.tensor(BOXES), torch.tensor(DELTAS), max_shape=tuple(SIZE))
    found = coders.decode_tblr(jnp.array(BOXES), jnp.array(DELTAS), normalizer, size=jnp.array(SIZE))
    np.testing.assert_allclose(found, decoded, rtol=1e-5, atol=1e-3)


def test_padded_rows_are_finite() -> None:
    @jax.jit
    def everything(boxes: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
        gradient = jax.grad(lambda deltas: coders.decode_deltas(boxes, deltas).sum())(jnp.zeros_like(boxes))
        return coders.encode_deltas(boxes, targets), coders.encode_tblr(boxes, targets), gradient

    zeros = jnp.zeros((3, 4))
    for boxes, targets in [(zeros, zeros), (jnp.array(BOXES[:3]), zeros), (zeros, jnp.array(BOXES[:3]))]:
        assert all(jnp.isfinite(part).all() for part in everything(boxes, targets))
