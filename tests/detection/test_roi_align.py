"""RoIAlign against torchvision's, values and gradients in float64, in the forms of the CPU and of accelerators."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision.ops
from torchvision.ops.poolers import LevelMapper

from jaxft.detection import roi_align as module
from jaxft.detection import roi_windows
from jaxft.detection.roi_align import assign_levels, assign_levels_canonical, roi_align
from jaxft.detection.roi_cells import Pooling
from tests.detection import cases

STRIDES, SHAPES = (4, 8, 16), ((2, 30, 40, 5), (2, 15, 20, 5), (2, 8, 10, 5))


def rois() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rois small, large, elongated, over the edges, without size; the image and the level of each.

    None is reversed: the reference then fails under adaptive sampling.
    """
    random = np.random.default_rng(0)
    boxes = cases.boxes(0, 90, largest=120)
    boxes[40:60] += random.normal(size=(20, 4)) * 30
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])  # some without width or height, some far outside
    special = [
        [0, 0, 160, 120],
        [0, 50, 160, 53],
        [80, 0, 83, 120],
        [16, 8, 48, 40],
        [0, 0, 0, 0],
        [30, 20, 30, 60],
        [-60, -60, 300, 300],
        [159, 119, 160, 120],
        [200, 200, 240, 260],
    ]
    boxes[: len(special)] = special
    return boxes.astype(np.float32), random.integers(0, 2, 90).astype(np.int32), random.integers(0, 3, 90)


def in_torch(
    maps: tuple[np.ndarray, ...], dy: np.ndarray, boxes: np.ndarray, image: np.ndarray, level: np.ndarray, how: Pooling
) -> tuple[np.ndarray, list[np.ndarray]]:
    """What torchvision makes of each level, and the gradients of the maps."""
    tensors = [torch.tensor(one.transpose(0, 3, 1, 2)).requires_grad_() for one in maps]
    placed = torch.tensor(np.concatenate([image[:, None], boxes], 1).astype(maps[0].dtype))
    out = torch.zeros(len(boxes), maps[0].shape[3], *how.output_size, dtype=placed.dtype)
    for index, (tensor, stride) in enumerate(zip(tensors, how.strides, strict=True)):
        rows = torch.tensor(np.flatnonzero(level == index))
        out[rows] = torchvision.ops.roi_align(
            tensor, placed[rows], how.output_size, 1 / stride, how.sampling_ratio or -1, how.aligned
        )
    out.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    gradients = [tensor.grad.numpy().transpose(0, 2, 3, 1) for tensor in tensors if tensor.grad is not None]
    return out.detach().numpy().transpose(0, 2, 3, 1), gradients


HOW = [
    Pooling(STRIDES, (7, 7), 0, True),
    Pooling(STRIDES, (4, 3), 0, False),
    Pooling(STRIDES, (7, 7), 2, False),
    Pooling(STRIDES, (2, 5), 3, True),
]


def forms(how: Pooling) -> dict[str, tuple[Callable, Callable]]:
    """Forward and backward of both forms; the one of accelerators runs here as well."""
    shapes = tuple(SHAPES)
    return {
        "cpu": (
            lambda *arrays: module._forward_cpu(how, *arrays),
            lambda *arrays: module._backward_cpu(how, shapes, *arrays),
        ),
        "accelerator": (
            lambda *arrays: roi_windows.forward(how, *arrays),
            lambda *arrays: roi_windows.backward(how, shapes, *arrays),
        ),
    }


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
@pytest.mark.parametrize("how", HOW)
def test_both_forms_are_torchvisions(how: Pooling, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi_windows, "STEP_BYTES", 2**18)  # several steps
    random = np.random.default_rng(1)
    maps = tuple(random.normal(size=shape) for shape in SHAPES)
    boxes, image, level = rois()
    dy = random.normal(size=(90, *how.output_size, 5))
    out, gradients = in_torch(maps, dy, boxes.astype(np.float64), image, level, how)
    forward, backward = forms(how)[form]
    with jax.enable_x64(True):
        place = (jnp.array(boxes, jnp.float64), jnp.array(image), jnp.array(level, jnp.int32))
        found = jax.jit(forward)(tuple(map(jnp.array, maps)), *place)
        np.testing.assert_allclose(found, out, rtol=1e-9, atol=1e-9)
        cells = jax.jit(backward)(jnp.array(dy), *place)
        expected = np.concatenate([gradient.reshape(-1, 5) for gradient in gradients])
        np.testing.assert_allclose(cells, expected, rtol=1e-9, atol=1e-9)


def test_gradient_through_the_levels() -> None:
    """As it is called: float32, one size for both sides, levels by area, padded rois, half precision."""
    random = np.random.default_rng(1)
    maps = tuple(random.normal(size=shape).astype(np.float32) for shape in SHAPES)
    boxes, image, _ = rois()
    level = np.array(assign_levels(jnp.array(boxes), 3, 20))
    assert set(level) == {0, 1, 2}
    level[70:] = -1
    dy = random.normal(size=(90, 7, 7, 5)).astype(np.float32)
    out, gradients = in_torch(maps, dy, boxes, image, level, HOW[0])

    @jax.jit
    def both(maps: tuple[jax.Array, ...], dy: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        place = (jnp.array(boxes), jnp.array(image), jnp.array(level))
        out, pull = jax.vjp(lambda maps: roi_align(maps, *place, STRIDES, 7), maps)
        return out, pull(dy.astype(out.dtype))[0]

    found, pulled = both(tuple(map(jnp.array, maps)), jnp.array(dy))
    np.testing.assert_allclose(found, out, atol=1e-4)
    assert not np.array(found)[70:].any()
    for ours, theirs in zip(pulled, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    found, pulled = both(tuple(jnp.array(one, jnp.bfloat16) for one in maps), jnp.array(dy))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), out, atol=0.05)
    assert all(one.dtype == jnp.bfloat16 for one in pulled)


@pytest.mark.parametrize(("samples", "dynamic"), [(2, 0), (0, 1)])
def test_steps_on_accelerators(samples: int, dynamic: int) -> None:
    """As many for any rois where the number of samples is fixed; one loop, in no other, for adaptive sampling."""
    how, maps = Pooling(STRIDES, (7, 7), samples, True), tuple(jnp.zeros(shape) for shape in SHAPES)
    place = jnp.zeros((90, 4)), jnp.zeros(90, jnp.int32), jnp.zeros(90, jnp.int32)
    forward, backward = forms(how)["accelerator"]
    # A loop of as many steps as is known beforehand is a scan.
    assert str(jax.make_jaxpr(forward)(maps, *place)).count("while[") == dynamic
    assert str(jax.make_jaxpr(backward)(jnp.zeros((90, 7, 7, 5)), *place)).count("while[") == dynamic

    def total(maps: tuple[jax.Array, ...]) -> jax.Array:
        return (roi_align(maps, *place, STRIDES, 7, samples) ** 2).sum()

    for platform in ("cuda", "tpu"):
        text = jax.jit(jax.grad(total)).trace(maps).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.while") == 2, platform  # forward and gradient


def test_images_one_by_one() -> None:
    """Under vmap, also with maps that all elements share, as with images in one array."""
    boxes, image, level = (jnp.array(part[:60]) for part in rois())
    maps = tuple(jax.random.normal(jax.random.key(0), shape) for shape in SHAPES)
    dy = jax.random.normal(jax.random.key(1), (60, 3, 3, 5))

    def both(maps: tuple[jax.Array, ...], boxes: jax.Array, image: jax.Array, level: jax.Array, dy: jax.Array) -> tuple:
        out, pull = jax.vjp(lambda maps: roi_align(maps, boxes, image, level, STRIDES, 3), maps)
        return out, pull(dy)[0]

    order = jnp.argsort(image)  # the same number of each image
    order = jnp.concatenate([order[:20], order[-20:]])
    parts = boxes[order], image[order], level[order].astype(jnp.int32), dy[order]
    wanted, gradient = jax.jit(both)(maps, *parts)
    alone = tuple(one[:, None] for one in maps)
    boxes, image, level, dy = (part.reshape(2, 20, *part.shape[1:]) for part in parts)
    found, pulled = jax.jit(jax.vmap(both))(alone, boxes, 0 * image, level, dy)
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=1e-5)
    for ours, one in zip(pulled, gradient, strict=True):
        np.testing.assert_allclose(ours[:, 0], one, atol=1e-4)
    shared, pulled = jax.jit(jax.vmap(both, (None, 0, 0, 0, 0)))(maps, boxes, image, level, dy)
    np.testing.assert_allclose(shared.reshape(wanted.shape), wanted, atol=1e-5)
    for ours, one in zip(pulled, gradient, strict=True):
        np.testing.assert_allclose(ours.sum(0), one, atol=1e-4)


def test_levels() -> None:
    boxes = np.concatenate([cases.boxes(0, 200, 1000, 1000, 900), np.zeros((2, 4), np.float32)])
    boxes[:4] = [[0, 0, side, side] for side in (112, 224, 448, 896)]
    theirs = LevelMapper(2, 5)([torch.tensor(boxes)])
    np.testing.assert_array_equal(assign_levels_canonical(jnp.array(boxes), 4), theirs)
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    extractor = SingleRoIExtractor({"type": "RoIAlign", "output_size": 7}, 5, [4, 8, 16, 32])
    placed = torch.tensor(np.concatenate([boxes[:, :1] * 0, boxes], 1))
    np.testing.assert_array_equal(assign_levels(jnp.array(boxes), 4), extractor.map_roi_levels(placed, 4))
