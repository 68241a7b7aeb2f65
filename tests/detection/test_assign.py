"""Assigners against MMDetection's and torchvision's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import FCOSHead
from mmdet.models.task_modules.assigners import ATSSAssigner, MaxIoUAssigner
from mmengine.structures import InstanceData
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.fcos import FCOS

from jaxft.detection.anchors import base_anchors, grid_anchors, grid_points
from jaxft.detection.assign import (
    BACKGROUND,
    IGNORED,
    Assignment,
    atss_assign,
    centerness,
    fcos_assign,
    max_iou_assign,
    prepend_truth,
)
from tests.detection import cases

MAPS = {8: (15, 20), 16: (8, 10), 32: (4, 5)}
ANCHORS = np.concatenate(
    [grid_anchors(base_anchors(stride, (2, 3), (0.5, 1, 2)), size, stride) for stride, size in MAPS.items()]
)
SQUARES = np.concatenate([grid_anchors(base_anchors(s, (4,), (1,), center_offset=0.5), m, s) for s, m in MAPS.items()])
LEVELS = tuple(rows * columns for rows, columns in MAPS.values())
CAP = 9


def padded(truth: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """The cap's rows, of which the first are valid; what is in the others must not matter."""
    rows = np.full((CAP, 4), 7, np.float32)
    rows[len(truth) :] = [0, 0, 160, 120]
    rows[: len(truth)] = truth
    return jnp.array(rows), jnp.arange(CAP) < len(truth)


def in_mmdetection(assigner: Any, anchors: np.ndarray, truth: np.ndarray, crowds: np.ndarray, *between: Any) -> Any:
    """MMDetection's assignment in our numbers."""
    result = assigner.assign(
        InstanceData(priors=torch.tensor(anchors)),
        *between,
        InstanceData(bboxes=torch.tensor(truth), labels=torch.zeros(len(truth), dtype=torch.long)),
        InstanceData(bboxes=torch.tensor(crowds)),
    )
    index = result.gt_inds.numpy() - 1
    return np.where(index < BACKGROUND, IGNORED, index), result.max_overlaps.numpy()


NONE = np.zeros((0, 4), np.float32)
RPN = {"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3}
ROI = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5, "match_low_quality": False}
RETINA = {"pos_iou_thr": 0.5, "neg_iou_thr": (0.1, 0.4), "min_pos_iou": 0.0}
FIRST = {"pos_iou_thr": 0.6, "neg_iou_thr": 0.3, "min_pos_iou": 0.2, "gt_max_assign_all": False}
CROWD = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0.0, "ignore_iof_thr": 0.5}
CROWD_WIDE = {**CROWD, "ignore_wrt_candidates": False}


@pytest.mark.parametrize("options", [RPN, ROI, RETINA, FIRST, CROWD, CROWD_WIDE])
def test_max_iou(options: dict[str, Any]) -> None:
    ours = jax.jit(lambda *arrays: max_iou_assign(*arrays[:4], ignored=arrays[4], **options))
    for seed, count in enumerate((6, 1, 3, 0)):
        truth, crowds = cases.boxes(seed, count), cases.boxes(seed + 50, 2 if seed < 3 else 0, largest=110)
        if count > 3:
            truth[1] = np.round(truth[1] / 8) * 8  # ties between anchors
            truth[2] = truth[1]  # and between boxes
        rows, valid = padded(truth)
        rows = rows.at[count : count + len(crowds)].set(crowds)
        ignored = (jnp.arange(CAP) >= count) & (jnp.arange(CAP) < count + len(crowds))
        outside = np.zeros(len(ANCHORS), bool)
        outside[5::7] = True
        found = ours(jnp.array(ANCHORS), jnp.array(~outside), rows, valid, ignored)
        index, overlap = in_mmdetection(MaxIoUAssigner(**options), ANCHORS[~outside], truth, crowds)
        np.testing.assert_array_equal(found.index[~outside], index)
        assert (np.array(found.index)[outside] == IGNORED).all()
        np.testing.assert_allclose(found.overlap[~outside], np.maximum(overlap, 0), atol=1e-6)


@pytest.mark.parametrize(("high", "low", "allow"), [(0.7, 0.3, True), (0.5, 0.4, True), (0.5, 0.5, False)])
def test_torchvisions_matcher(high: float, low: float, allow: bool) -> None:
    import torchvision.ops

    for seed, count in enumerate((6, 1)):
        truth = cases.boxes(seed, count)
        truth[-1] = np.round(truth[-1] / 8) * 8
        truth[0] = truth[-1]
        expected = Matcher(high, low, allow)(torchvision.ops.box_iou(torch.tensor(truth), torch.tensor(ANCHORS)))
        found = max_iou_assign(
            jnp.array(ANCHORS),
            jnp.ones(len(ANCHORS), bool),
            *padded(truth),
            pos_iou_thr=high,
            neg_iou_thr=low,
            match_low_quality=allow,
            low_quality_to_own_best=True,
        )
        np.testing.assert_array_equal(found.index, expected)


def test_truth_is_prepended() -> None:
    assignment = Assignment(jnp.array([1, -1, -2], jnp.int32), jnp.array([0.5, 0.1, 0.4]))
    index, overlap = prepend_truth(assignment, jnp.array([True, True, False]))
    assert index.tolist() == [0, 1, IGNORED, 1, -1, -2]
    np.testing.assert_allclose(overlap, [1, 1, 0, 0.5, 0.1, 0.4])


@pytest.mark.parametrize("ignore", [-1.0, 0.5])
def test_atss(ignore: float) -> None:
    """Also with fewer valid anchors on a level than are asked for, and on one level a single one."""
    inside = np.ones(len(SQUARES), bool)
    inside[3::5] = False
    inside[-LEVELS[2] + 3 :] = False
    kept = [int(part.sum()) for part in np.split(inside, np.cumsum(LEVELS)[:-1])]
    ours = jax.jit(
        lambda *arrays: atss_assign(arrays[0], LEVELS, *arrays[1:4], topk=5, ignored=arrays[4], ignore_iof_thr=ignore)
    )
    for seed, count in enumerate((7, 1, 4, 0)):
        truth, crowds = cases.boxes(seed, count), cases.boxes(seed + 50, 1, largest=110)
        if count > 3:
            truth[2] = truth[1]
        rows, valid = padded(truth)
        rows = rows.at[count].set(crowds[0])
        found = ours(jnp.array(SQUARES), jnp.array(inside), rows, valid, jnp.arange(CAP) == count)
        assigner = ATSSAssigner(topk=5, ignore_iof_thr=ignore)
        index, overlap = in_mmdetection(assigner, SQUARES[inside], truth, crowds, kept)
        np.testing.assert_array_equal(found.index[inside], index)
        assert (np.array(found.index)[~inside] == IGNORED).all()
        np.testing.assert_allclose(found.overlap[inside], np.where(index >= 0, overlap, 0), atol=1e-6)


POINTS = np.concatenate([grid_points(size, stride) for stride, size in MAPS.items()])
STRIDES = np.repeat(list(MAPS), LEVELS).astype(np.float32)


@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_fcos(sampling: bool, norm: bool) -> None:
    ends = ((-1.0, 24.0), (24.0, 48.0), (48.0, 1e8))
    head = FCOSHead(3, 8, regress_ranges=ends, strides=list(MAPS), center_sampling=sampling, norm_on_bbox=norm)
    ranges = np.repeat(np.array(ends, np.float32), LEVELS, 0)
    ours = jax.jit(
        lambda *truth: fcos_assign(
            jnp.array(POINTS), STRIDES, ranges, *truth, center_sampling=sampling, norm_on_bbox=norm
        )
    )
    for seed, count in enumerate((7, 1, 0)):
        truth = cases.boxes(seed, count, largest=110)
        if count > 3:
            truth[1:3] = np.round(truth[1:3] / 8) * 8
        points = [torch.tensor(part) for part in np.split(POINTS, np.cumsum(LEVELS)[:-1])]
        labels, targets = head.get_targets(
            points, [InstanceData(bboxes=torch.tensor(truth), labels=torch.arange(count))]
        )
        expected = torch.cat(labels).numpy() if count else np.full(len(POINTS), 3)
        # Its labels are the rows themselves here, and its number of classes (3) the background.
        head.num_classes = 99
        labels, targets = head.get_targets(
            points, [InstanceData(bboxes=torch.tensor(truth), labels=torch.arange(count))]
        )
        expected = torch.cat(labels).numpy()
        expected = np.where(expected == 99, BACKGROUND, expected)
        found = ours(*padded(truth))
        np.testing.assert_array_equal(found.index, expected)
        distances = np.where((expected >= 0)[:, None], torch.cat(targets), 0)
        np.testing.assert_allclose(found.distances, distances, atol=1e-5)
        own = torch.tensor(np.array(found.distances)[expected >= 0])
        if len(own):
            np.testing.assert_allclose(
                centerness(found.distances)[expected >= 0], head.centerness_target(own), atol=1e-6
            )
        assert not np.array(centerness(found.distances))[expected < 0].any()


def test_torchvisions_fcos() -> None:
    """Its matching is inside `compute_loss`: the loss's call shows what it matched."""
    seen: list[torch.Tensor] = []

    class Head:
        def compute_loss(self, targets: Any, outputs: Any, anchors: Any, matched: list[torch.Tensor]) -> None:
            seen.extend(matched)

    model = FCOS.__new__(FCOS)
    torch.nn.Module.__init__(model)
    vars(model)["head"] = Head()
    model.center_sampling_radius = 1.5
    anchors = torch.tensor(np.concatenate([grid_anchors(base_anchors(1, (s,), (1,)), m, s) for s, m in MAPS.items()]))
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    ends = np.array([(0, 64), (64, 128), (128, np.inf)], np.float32)
    for seed, count in enumerate((7, 1)):
        truth = cases.boxes(seed, count, largest=110)
        truth[0] = np.round(truth[0] / 8) * 8
        model.compute_loss([{"boxes": torch.tensor(truth)}], {}, [anchors], list(LEVELS))
        found = fcos_assign(
            jnp.array(points),
            STRIDES,
            np.repeat(ends, LEVELS, 0),
            *padded(truth),
            center_sampling=True,
            torchvision=True,
        )
        np.testing.assert_array_equal(found.index, seen.pop())
