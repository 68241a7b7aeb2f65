"""Mask targets and pasting against MMDetection's and torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from jaxft.detection.masks import mask_targets, paste, pasted_runs, unpack_bits
from tests.detection import cases

HEIGHT, WIDTH = 120, 160


def ellipses() -> np.ndarray:
    """Masks `[4, H, W]` of 0 and 1."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    spots = [(40, 30, 25, 20), (100, 80, 50, 30), (150, 100, 9, 40), (10, 110, 4, 3)]
    return np.stack([((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1 for cx, cy, rx, ry in spots]).astype(np.uint8)


def test_bits() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (3, 5, 16)).astype(bool)
    np.testing.assert_array_equal(unpack_bits(jnp.array(np.packbits(bits, axis=-1))), bits)


def test_targets() -> None:
    masks, boxes = ellipses(), cases.boxes(0, 21)
    boxes[:3] = [[0, 0, WIDTH, HEIGHT], [90, 70, 140, 72], [-20, -30, 300, 60]]
    index = np.random.default_rng(1).integers(0, 4, 21).astype(np.int32)
    packed = jnp.array(np.packbits(masks, axis=-1))
    config = ConfigDict(mask_size=(28, 28))
    expected = mask_target(
        [torch.tensor(boxes)], [torch.tensor(index).long()], [BitmapMasks(masks, HEIGHT, WIDTH)], config
    )
    found = jax.jit(mask_targets)(packed, jnp.array(boxes), jnp.array(index))
    assert found.shape == (21, 28, 28)
    assert (np.array(found) == expected.numpy()).mean() > 0.9999  # an average of exactly a half may round
    soft = jax.jit(lambda *arrays: mask_targets(*arrays, size=14, aligned=False, binary=False))
    inside = np.clip(boxes, 0, [WIDTH, HEIGHT] * 2).astype(np.float32)
    expected = project_masks_on_boxes(torch.tensor(masks), torch.tensor(inside), torch.tensor(index), 14)
    np.testing.assert_allclose(soft(packed, jnp.array(inside), jnp.array(index)), expected, atol=1e-5)


def test_targets_of_padded_rows() -> None:
    packed = jnp.zeros((2, HEIGHT, WIDTH // 8), jnp.uint8)
    found = jax.jit(mask_targets, static_argnums=3)(packed, jnp.zeros((3, 4)), jnp.array([-1, 0, 99]), 7)
    assert not found.any()


def predicted() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `[12, 28, 28]` and their boxes."""
    boxes = cases.boxes(3, 12, largest=110)
    boxes[:4] = [[-20, -10, 60, 50], [100, 60, 200, 180], [30, 40, 31.5, 41], [50, 50, 50, 80]]
    smooth = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    masks = torch.nn.functional.interpolate(smooth, size=(28, 28), mode="bilinear", align_corners=False)
    return masks[:, 0].numpy(), boxes


@pytest.mark.parametrize("threshold", [0.5, None])
def test_paste_as_mmdetection(threshold: float | None) -> None:
    masks, boxes = predicted()
    found = paste(masks, boxes, HEIGHT, WIDTH, threshold=threshold)
    assert found.dtype == (np.float32 if threshold is None else bool)
    for mask, box, ours in zip(masks, boxes, found, strict=True):
        expected = np.zeros((HEIGHT, WIDTH), np.float32)
        values, region = _do_paste_mask(torch.tensor(mask)[None, None], torch.tensor(box)[None], HEIGHT, WIDTH)
        expected[region] = values[0]
        if threshold is None:
            np.testing.assert_allclose(ours, expected, atol=1e-5)
        else:
            assert (ours == (expected >= threshold)).mean() > 0.9999


def test_paste_as_torchvision() -> None:
    masks, boxes = predicted()
    expected = paste_masks_in_image(torch.tensor(masks)[:, None], torch.tensor(boxes), (HEIGHT, WIDTH))[:, 0]
    found = paste(masks, boxes, HEIGHT, WIDTH, threshold=None, style="torchvision")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    hard = paste(masks, boxes, HEIGHT, WIDTH, style="torchvision")
    assert (hard == (expected.numpy() > 0.5)).mean() > 0.9999


def test_paste_of_nothing() -> None:
    assert paste(np.zeros((0, 28, 28)), np.zeros((0, 4)), 5, 6).shape == (0, 5, 6)


def test_runs_are_those_of_the_whole_image() -> None:
    """pycocotools' own code of the whole image, for boxes anywhere: inside, beyond, as large as the image, empty."""
    random = np.random.default_rng(5)
    height, width = 37, 53
    corners = np.sort(random.uniform(-30, 80, (150, 2, 2)), 1).reshape(-1, 4)
    whole = [[0, 0, width, height], [-9, -9, width + 9, height + 9], [10, -5, 20, height + 5], [5, 0, 6, height]]
    tiny = [[7, 7, 7, 7], [7.2, 8.1, 7.3, 8.2], [3, 5, 3, 30], [200, 200, 210, 210], [-50, -50, -40, -40]]
    boxes = np.concatenate([corners, whole, tiny])
    # 0.5 is inside: it and its neighbors must not come out otherwise.
    masks = random.choice([0, 0.25, 0.5, 0.75, 1], (len(boxes), 28, 28), p=[0.1, 0.1, 0.3, 0.2, 0.3])
    masks[:20], masks[20:40] = 1, 0
    masks[-len(tiny) - len(whole) :] = 1
    for mask, box in zip(masks, boxes, strict=True):
        lengths = pasted_runs(mask, box, height, width)
        assert lengths.sum() == height * width
        assert lengths[1:].all()
        code = coco_mask.frPyObjects({"size": [height, width], "counts": lengths.tolist()}, height, width)
        pasted = paste(mask[None], box[None], height, width)[0]
        assert code == coco_mask.encode(np.asfortranarray(pasted, np.uint8))
