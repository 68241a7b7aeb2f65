"""Assignment of some candidates at a time: the same as of all at once, bit for bit, and in little memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.detection import assign, pairs
from jaxft.detection.anchors import base_anchors, grid_anchors, grid_points
from tests.detection import cases

MAPS = {8: (15, 20), 16: (8, 10), 32: (4, 5)}
LEVELS = tuple(rows * columns for rows, columns in MAPS.values())
ANCHORS = np.concatenate(
    [grid_anchors(base_anchors(stride, (2, 3), (0.5, 1, 2)), size, stride) for stride, size in MAPS.items()]
)
SQUARES = np.concatenate([grid_anchors(base_anchors(s, (4,), (1,), center_offset=0.5), m, s) for s, m in MAPS.items()])
POINTS = np.concatenate([grid_points(size, stride) for stride, size in MAPS.items()]).astype(np.float32)
STRIDES = np.repeat(list(MAPS), LEVELS).astype(np.float32)
RANGES = np.repeat(np.array([(-1, 24), (24, 48), (48, 1e8)], np.float32), LEVELS, 0)
IOU = {"pos_iou_thr": 0.6, "neg_iou_thr": 0.3, "min_pos_iou": 0.1}

Assigner = Callable[..., tuple[jax.Array, jax.Array]]


def max_iou(*arrays: Any, **options: Any) -> assign.Assignment:
    return assign.max_iou_assign(*arrays[:4], ignored=arrays[4], **IOU, **options)


def atss(*arrays: Any, levels: tuple[int, ...] = LEVELS, **options: Any) -> assign.Assignment:
    return assign.atss_assign(arrays[0], levels, *arrays[1:4], ignored=arrays[4], **options)


def fcos(points: Any, _: Any, *truth: Any, at: Any = (STRIDES, RANGES), **options: Any) -> assign.PointAssignment:
    return assign.fcos_assign(points, *at, *truth[:2], **options)


def objects(count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Boxes, some of which are equal or overlap equally with several anchors, some not valid, some crowds."""
    boxes = cases.boxes(3, count, largest=110)
    boxes[::4] = np.round(boxes[::4] / 8) * 8
    boxes[1] = boxes[0]
    row = jnp.arange(count)
    return jnp.array(boxes), (row % 5 != 4), row % 10 == 4


@pytest.mark.parametrize("count", [9, 500])
@pytest.mark.parametrize(
    ("assigner", "candidates"),
    [
        (max_iou, ANCHORS),
        (partial(max_iou, low_quality_to_own_best=True, ignore_iof_thr=0.5), ANCHORS),
        (partial(max_iou, gt_max_assign_all=False), ANCHORS),
        (partial(max_iou, match_low_quality=False, ignore_iof_thr=0.5, ignore_wrt_candidates=False), ANCHORS),
        (partial(atss, topk=5, ignore_iof_thr=0.5), SQUARES),
        (partial(fcos, center_sampling=True), POINTS),
        (partial(fcos, torchvision=True), POINTS),
    ],
)
def test_some_at_a_time(
    assigner: Assigner, candidates: np.ndarray, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable = np.arange(len(candidates)) % 7 != 5
    arrays = (jnp.array(candidates), jnp.array(usable), *objects(count))
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 10**9)
    expected = jax.jit(lambda *arrays: assigner(*arrays))(*arrays)
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 97 * count)  # rows left over, and many of an object's best apart
    program = jax.jit(lambda *arrays: assigner(*arrays))
    assert "while" in program.lower(*arrays).as_text()
    for found, wanted in zip(program(*arrays), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(expected[0])) > 3


def test_a_whole_batch_needs_little_memory() -> None:
    """16 photos of 800 x 1344, compiled only: below 1 GB, which was 3.9 GB for 100 objects, all at once."""
    cells = [-(-800 // stride) * -(-1344 // stride) for stride in (8, 16, 32, 64, 128)]
    points, anchors = sum(cells), 268_569  # of Faster R-CNN's proposals
    at = np.repeat(STRIDES[:1], points), np.repeat(RANGES[:1], points, 0)
    like = jax.ShapeDtypeStruct
    for count in (100, 500):
        for assigner, candidates in (
            (partial(max_iou, ignore_iof_thr=0.5), like((anchors, 4), jnp.float32)),
            (partial(atss, levels=tuple(cells)), like((points, 4), jnp.float32)),
            (partial(fcos, at=at), like((points, 2), jnp.float32)),
        ):
            usable = like((16, len(candidates)), bool)
            truth = like((16, count, 4), jnp.float32), *[like((16, count), bool)] * 2
            program = jax.jit(jax.vmap(assigner, (None, 0, 0, 0, 0))).lower(candidates, usable, *truth)
            assert program.compile().memory_analysis().temp_size_in_bytes < 1e9, (assigner, count)
