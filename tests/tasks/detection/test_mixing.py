"""Steps that put several photos together, beside MMDetection's own classes with the same draws, and masks beside what
NumPy makes of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

import tests.mmdet_live  # noqa: F401
from jaxft.tasks.detection import mixing
from jaxft.tasks.detection.mixing import Another, mix, run_mixing
from jaxft.tasks.detection.mixtures import CopyPaste, MixUp, Mosaic
from jaxft.tasks.detection.scene import Scene, outer_boxes
from jaxft.tasks.detection.steps import apply
from jaxft.tasks.detection.transforms import FilterAnnotations, Pad, RandomAffine, RandomCrop, RandomFlip, Resize
from jaxft.tasks.detection.transforms import YOLOXHSVRandomAug as Colors
from tests.tasks.detection.reference import assert_alike, assert_same, built, draws, scene, theirs, without_masks
from tests.tasks.detection.test_steps import Scripted

# isort: split
import mmdet.datasets.transforms as reference

FLOAT_LEVEL = {"pad_val": 114.0}  # MMDetection resizes in float64 and cuts off
WHOLE_LEVEL = {"pad_val": 114}  # and in whole numbers, which OpenCV rounds


def from_list(*others: Scene) -> Another:
    left = list(others)
    return lambda tries: left.pop(0)


def four(seed: int, sizes: Sequence[tuple[int, int]] = ((37, 52), (60, 31), (20, 20), (90, 120))) -> list[Scene]:
    return [scene(*size, count, seed + count) for count, size in zip((3, 0, 4, 2), sizes, strict=True)]


# Mosaic


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("scale", [(64, 48), (40, 90)])
@pytest.mark.parametrize("center", [(0.5, 1.5), (1.0, 1.0), (1.31, 0.77), (2.0, 0.0)])
def test_mosaic(center: tuple[float, float], scale: tuple[int, int], clipped: bool) -> None:
    step = Mosaic(img_scale=scale, bbox_clip_border=clipped, pad_val=99, prob=0.9)
    one, *others = four(5)
    found = mix(step, one, Scripted(0.9, *center), from_list(*others))
    with draws((0.9, *center)):
        expected = built(step)(without_masks(one) | {"mix_results": [without_masks(other) for other in others]})
    assert found.size == (2 * scale[1], 2 * scale[0])
    assert_alike(found, expected)
    assert mix(step, one, Scripted(0.91), from_list()) is one


@pytest.mark.parametrize("center", [(0.5, 1.5), (0.8, 1.2), (1.4, 0.6)])
def test_masks_of_a_mosaic_are_those_of_mmdetections_cached_one(center: tuple[float, float]) -> None:
    """Of photos whose sizes after resizing need no rounding, which it does in two ways, for pixels and masks."""
    step = Mosaic(img_scale=(48, 48))
    one, *others = four(2, ((24, 32), (96, 48), (12, 12), (36, 48)))
    transform = reference.CachedMosaic(img_scale=(48, 48))
    transform.results_cache = [theirs(other) for other in (*others, others[0])]
    with draws((0.0, *center)), mock.patch.object(transform, "get_indexes", return_value=[0, 1, 2]):
        expected = transform(theirs(one))
    assert_same(mix(step, one, Scripted(0.0, *center), from_list(*others)), expected)


def nearest(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Masks `[K, H, W]` resized: each pixel is the one that its upper left corner falls into."""
    sides = zip((height, width), masks.shape[1:], strict=True)
    rows, columns = ((np.arange(new) * (old / new)).astype(int) for new, old in sides)
    return masks[:, rows][:, :, columns]


def cut_out(masks: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """What masks `[K, H, W]` have, beginning at a place which may be outside, and zeros."""
    rows, columns = np.arange(top, top + height), np.arange(left, left + width)
    inside = [(place >= 0) & (place < length) for place, length in zip((rows, columns), masks.shape[1:], strict=True)]
    cut = masks[:, rows.clip(0, masks.shape[1] - 1)][:, :, columns.clip(0, masks.shape[2] - 1)]
    return cut * np.outer(*inside)


@pytest.mark.parametrize("seed", range(3))
def test_masks_of_a_mosaic_are_moved_with_their_photos(seed: int) -> None:
    one, *others = four(seed)
    center = np.random.default_rng(seed).uniform(0, 2, 2)
    step = Mosaic(img_scale=(64, 48), bbox_clip_border=False)
    x, y = int(center[0] * 64), int(center[1] * 48)
    wanted, boxes = [], []
    for place, part in enumerate((one, *others)):
        factor = min(48 / part.size[0], 64 / part.size[1])
        height, width = (int(side * factor) for side in part.size)
        top, left = y - height * (place < 2), x - width * (place % 2 == 0)
        wanted.append(cut_out(nearest(part.masks, height, width), -top, -left, 96, 128))
        boxes.append(part.boxes * factor + [left, top, left, top])
    inside = [all((box[:2] < [128, 96]) & (box[2:] > 0)) for box in np.concatenate(boxes)]
    found = mix(step, one, Scripted(0.0, *center), from_list(*others))
    np.testing.assert_array_equal(found.masks, np.concatenate(wanted)[inside])


# MixUp


SIZES = [((50, 70), (37, 52)), ((40, 30), (90, 20)), ((64, 64), (30, 30)), ((90, 130), (64, 50))]


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize(("own", "size"), SIZES)
@pytest.mark.parametrize(("factor", "drawn"), [(0.5, 0.3), (1.0, 0.8), (1.45, 0.4), (1.45, 0.6)])
def test_mixup(own: tuple[int, int], size: tuple[int, int], factor: float, drawn: float, clipped: bool) -> None:
    one, other = scene(*own, 3, 1), scene(*size, 5, 2)
    step = MixUp(img_scale=(64, 48), flip_ratio=0.5, bbox_clip_border=clipped)
    spare = [int(side * factor) - mine for side, mine in zip((48, 64), own, strict=True)]
    offsets = [most // 2 for most in spare if most > 0]
    found = mix(step, one, Scripted(factor, drawn, *offsets), from_list(other))
    for level, tolerance in ((WHOLE_LEVEL, 0), (FLOAT_LEVEL, 1)):
        with draws((factor, drawn), offsets):
            row = without_masks(one) | {"mix_results": [without_masks(other)]}
            assert_alike(found, built(step, **level)(row), tolerance)
    height, width = (int(side * min(48 / size[0], 64 / size[1])) for side in size)
    masks = nearest(cut_out(nearest(other.masks, height, width), 0, 0, 48, 64), int(48 * factor), int(64 * factor))
    top, left = (most // 2 if most > 0 else 0 for most in spare)
    masks = cut_out(masks[:, :, ::-1] if drawn > 0.5 else masks, top, left, *own)
    kept = 8 - len(found.boxes)
    assert len(masks) - kept == len(found.boxes) - 3  # all of its own stay
    labels = found.labels[3:]
    np.testing.assert_array_equal(found.masks, np.concatenate([one.masks, masks[labels]]))


def test_nothing_is_mixed_with_a_photo_without_objects() -> None:
    one, empty, asked = scene(30, 40), scene(30, 40, 0), []
    found = mix(MixUp(max_iters=7), one, Scripted(), lambda tries: asked.append(tries) or empty)
    assert found is one
    assert asked == [7]


# CopyPaste


def boxed(one: Scene) -> Scene:
    """Objects whose masks fill their boxes, in whole pixels."""
    boxes = one.boxes.astype(int)
    masks = np.zeros_like(one.masks)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return replace(one, boxes=boxes.astype(np.float32), masks=masks)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options", [{}, {"bbox_occluded_thr": 0, "mask_occluded_thr": 90}, {"max_num_pasted": 3}])
def test_copies_are_pasted(options: dict[str, Any], seed: int) -> None:
    step = CopyPaste(**options)
    one, other = (boxed(scene(40, 50, count, seed)) for count in (7, 5))
    chosen = np.random.default_rng(seed).permutation(5)[: 1 + seed % 4]
    found = mix(step, one, Scripted(len(chosen), chosen), from_list(other))
    transform = built(step)
    with mock.patch.object(transform, "_get_selected_inds", return_value=chosen):
        expected = transform(theirs(one) | {"mix_results": [theirs(other)]})
    assert_same(found, expected)
    assert len(found.boxes) < 7 + len(chosen)  # some are hidden


@pytest.mark.parametrize("count", [0, 4])
def test_all_objects_are_pasted_where_none_are_selected(count: int) -> None:
    step = CopyPaste(selected=False)
    one, other = scene(40, 50, 3), scene(40, 50, count, 1)
    expected = built(step)(theirs(one) | {"mix_results": [theirs(other)]})
    assert_same(mix(step, one, Scripted(), from_list(other)), expected)


def test_boxes_are_pasted_where_there_are_no_masks() -> None:
    step, chosen = CopyPaste(paste_by_box=True, mask_occluded_thr=20), np.array([2, 1])
    one, other = scene(40, 50, 6, 3), scene(40, 50, 5, 4)
    transform = built(step)
    with mock.patch.object(transform, "_get_selected_inds", return_value=chosen):
        expected = transform(without_masks(one) | {"mix_results": [without_masks(other)]})
    found = mix(step, replace(one, masks=None), Scripted(2, chosen), from_list(replace(other, masks=None)))
    assert found.masks is None
    assert_alike(found, expected)


def test_numbers_of_copies_are_drawn_as_by_mmdetection() -> None:
    one = scene(20, 20, 4)
    np.random.seed(0)
    for most in (3, 100):
        step, transform, ours = CopyPaste(max_num_pasted=most), built(CopyPaste(max_num_pasted=most)), []
        for seed in range(300):
            with mock.patch.object(mixing, "copy_paste", side_effect=lambda step, scene, pasted: pasted):
                found = mix(step, one, np.random.default_rng(seed), from_list(one))
            ours.append(0 if found is one else len(found.labels))
            assert found is one or len(set(found.labels)) == len(found.labels)
        wanted = [len(transform._get_selected_inds(4)) for _ in range(300)]
        for number in range(5):
            assert np.mean(np.equal(ours, number)) == pytest.approx(np.mean(np.equal(wanted, number)), abs=0.1)


def test_an_object_of_which_nothing_is_left_goes() -> None:
    """MMDetection would keep this one, without a size, because it is near the corner."""
    one, other = boxed(scene(40, 50, 1)), boxed(scene(40, 50, 1))
    corner = np.zeros_like(one.masks)
    corner[:, :8, :8] = 1
    small = replace(one, boxes=np.array([[0, 0, 8, 8]], np.float32), masks=corner)
    found = mix(CopyPaste(selected=False), small, Scripted(), from_list(other))
    np.testing.assert_array_equal(found.boxes, other.boxes)


# Lists


def test_yoloxs_steps_in_a_row() -> None:
    """Mosaic, RandomAffine, MixUp, colors, flip, Pad: the photo of MMDetection, but for the rounding of `MixUp`."""
    listed = (
        Mosaic(img_scale=(48, 48)),
        RandomAffine(scaling_ratio_range=(0.1, 2), border=(-24, -24)),
        MixUp(img_scale=(48, 48), ratio_range=(0.8, 1.6)),
        Colors(),
        RandomFlip(prob=0.5),
        Resize(scale=(48, 48), keep_ratio=True),
        Pad(pad_to_square=True, pad_val=114),
        FilterAnnotations(min_gt_bbox_wh=(1, 1), keep_empty=False),
    )
    one, *others = four(9)
    mixed = scene(50, 60, 4, 8)
    affine, shares = (3.0, 0.8, 0.5, -1.0, 0.05, -0.02), np.array([0.3, -0.9, 0.6])
    values = (0.0, 0.9, 1.2, *affine, 1.3, 0.7, 5, 11, shares, np.ones(3), 0.2)
    found = run_mixing(listed, one, Scripted(*values), from_list(*others, mixed))
    assert found is not None
    row = without_masks(one)
    for step in listed:
        transform = built(step, **(WHOLE_LEVEL if hasattr(step, "pad_val") else {}))
        if isinstance(step, Mosaic):
            with draws((0.0, 0.9, 1.2)):
                row = transform(row | {"mix_results": [without_masks(other) for other in others]})
        elif isinstance(step, MixUp):
            with draws((1.3, 0.7), (5, 11)):
                row = transform(row | {"mix_results": [without_masks(mixed)]})
        elif isinstance(step, RandomAffine):
            with draws(affine):
                row = transform(row)
        elif isinstance(step, Colors):
            gains = (shares * [5, 30, 30]).astype(np.int16)
            row["img"] = np.ascontiguousarray(row["img"][..., ::-1])
            with mock.patch.object(transform, "_get_hsv_gains", return_value=gains):
                row = transform(row)
            row["img"] = np.ascontiguousarray(row["img"][..., ::-1])
        elif isinstance(step, RandomFlip):
            with mock.patch.object(transform, "_choose_direction", return_value="horizontal"):
                row = transform(row)
        else:
            row = transform(row)
    assert found.size == (48, 48)
    assert len(found.boxes) > 3
    assert_alike(found, row)


def test_masks_lie_on_the_pixels_of_their_objects() -> None:
    """Bright rectangles: where a mask is, the photo is bright, and nowhere else, but for what edges lose."""
    parts = []
    for seed in range(4):
        one = scene(96, 128, 3, seed)
        masks, pixels = np.zeros_like(one.masks), np.zeros_like(one.pixels)
        for mask, (top, left) in zip(masks, ((8, 10), (50, 20), (30, 80)), strict=True):
            mask[top : top + 36, left : left + 40] = 1
        pixels[masks.any(0)] = 255
        parts.append(replace(one, pixels=pixels, masks=masks, boxes=outer_boxes(masks)))
    listed = (Mosaic(img_scale=(128, 96), pad_val=0), RandomAffine(border_val=(0, 0, 0), max_rotate_degree=30))
    for seed in range(5):
        found = run_mixing(listed, parts[0], np.random.default_rng(seed), from_list(*parts[1:]))
        assert found is not None
        assert found.masks is not None
        bright, covered = found.pixels[..., 0] > 127, found.masks.any(0)
        assert covered.mean() > 0.05
        assert (bright != covered).mean() < 0.02
        inner = found.pixels[..., 0][covered] == 255
        assert inner.mean() > 0.85


def test_a_step_that_refuses_is_tried_again_with_other_draws() -> None:
    one = scene(40, 40, 1)
    one.boxes[:] = [0, 0, 12, 12]
    step = RandomCrop(crop_size=(20, 20))
    for seed in range(20):
        found = run_mixing((step,), one, np.random.default_rng(seed), from_list())
        assert found is not None
        assert len(found.boxes) == 1
    assert any(apply(step, one, np.random.default_rng(seed)) is None for seed in range(20))
    one.boxes[:] = [0, 0, 0, 0]
    assert run_mixing((step,), one, np.random.default_rng(0), from_list()) is None
