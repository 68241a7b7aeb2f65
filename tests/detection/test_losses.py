"""Losses and their gradients against PyTorch's and MMDetection's, in float64."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
from mmdet.models.losses import gfocal_loss
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.models.losses.iou_loss import bounded_iou_loss, ciou_loss, diou_loss, giou_loss, iou_loss
from mmdet.models.losses.smooth_l1_loss import smooth_l1_loss

from jaxft.detection import losses
from jaxft.detection.boxes import IouKind
from tests.detection import cases

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(13, 5)) * 4
LOGITS[0, 0] = 0
LABELS = RANDOM.integers(0, 6, 13)  # 5 is background
ONE_HOT = np.eye(6)[LABELS][:, :5]
BOXES, TARGETS = cases.boxes(0, 15), cases.boxes(1, 15)
TARGETS[:9] = BOXES[:9] + RANDOM.normal(size=(9, 4)) * 2
TARGETS[8] = BOXES[8]


def test_cross_entropy() -> None:
    labels = np.minimum(LABELS, 4)
    cases.same_as_torch(
        lambda x: losses.cross_entropy(x, jnp.array(labels)),
        lambda x: F.cross_entropy(x, torch.tensor(labels), reduction="none"),
        LOGITS,
    )
    cases.same_as_torch(
        losses.binary_cross_entropy,
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none"),
        LOGITS,
        RANDOM.uniform(size=LOGITS.shape),
    )


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6)])
def test_sigmoid_focal(gamma: float, alpha: float) -> None:
    cases.same_as_torch(
        lambda x, t: losses.sigmoid_focal(x, t, gamma, alpha),
        lambda x, t: py_sigmoid_focal_loss(x, t, gamma=gamma, alpha=alpha, reduction="none"),
        LOGITS,
        ONE_HOT,
    )
    cases.same_as_torch(
        lambda x, t: losses.sigmoid_focal(x, t, gamma, -1),
        lambda x, t: torchvision.ops.sigmoid_focal_loss(x, t, -1, gamma),
        LOGITS,
        ONE_HOT,
    )


def test_quality_focal() -> None:
    scores = RANDOM.uniform(size=13)
    cases.same_as_torch(
        lambda x, s: losses.quality_focal(x, jnp.array(LABELS), s),
        lambda x, s: gfocal_loss.quality_focal_loss(x, (torch.tensor(LABELS), s), reduction="none"),
        LOGITS,
        scores,
    )


def test_distribution_focal() -> None:
    targets = RANDOM.uniform(0, 4, 13) - 0.1
    targets[:3] = [0, 3.9, 2]
    targets = np.clip(targets, 0, 3.9)
    cases.same_as_torch(
        losses.distribution_focal,
        lambda x, t: gfocal_loss.distribution_focal_loss(x, t, reduction="none"),
        LOGITS,
        targets,
    )


@pytest.mark.parametrize("beta", [1.0, 1 / 9])
def test_l1(beta: float) -> None:
    predicted, target = RANDOM.normal(size=(2, 11, 4)) / 3
    predicted[0] = target[0]
    cases.same_as_torch(
        lambda p, t: losses.smooth_l1(p, t, beta),
        lambda p, t: smooth_l1_loss(p, t, beta=beta, reduction="none"),
        predicted,
        target,
    )
    cases.same_as_torch(losses.l1, lambda p, t: F.l1_loss(p, t, reduction="none"), predicted, target)


@pytest.mark.parametrize("mode", ["log", "linear", "square"])
def test_iou(mode: Literal["log", "linear", "square"]) -> None:
    cases.same_as_torch(
        lambda p, t: losses.iou_loss(p, t, mode=mode),
        lambda p, t: iou_loss(p, t, mode=mode, reduction="none"),
        BOXES,
        TARGETS,
    )


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_distance_ious(kind: IouKind) -> None:
    theirs = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}[kind]
    cases.same_as_torch(
        lambda p, t: losses.iou_loss(p, t, kind), lambda p, t: theirs(p, t, reduction="none"), BOXES, TARGETS
    )


def test_bounded_iou() -> None:
    cases.same_as_torch(losses.bounded_iou, lambda p, t: bounded_iou_loss(p, t, reduction="none"), BOXES, TARGETS)


def test_saturated_and_padded_rows_are_finite() -> None:
    logits = jnp.array([[-200.0, 200.0], [0.0, 0.0]])
    labels = jnp.array([0, 99])
    targets = jax.nn.one_hot(labels, 2)

    def total(logits: jax.Array) -> jax.Array:
        return (
            losses.sigmoid_focal(logits, targets).sum()
            + losses.quality_focal(logits, labels, jnp.zeros(2)).sum()
            + losses.cross_entropy(logits, labels).sum()
            + losses.distribution_focal(logits, jnp.array([-5.0, 500.0])).sum()
        )

    value, gradient = jax.jit(jax.value_and_grad(total))(logits)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_boxes_of_padded_rows_give_finite_gradients() -> None:
    @jax.jit
    @jax.grad
    def gradient(predicted: jax.Array) -> jax.Array:
        zeros = jnp.zeros_like(predicted)
        ious = [losses.iou_loss(predicted, zeros, kind).sum() for kind in ("iou", "giou", "diou", "ciou")]
        return sum(ious) + losses.bounded_iou(predicted, zeros).sum()

    corner = jnp.array([[30.0, 40, 30, 40], [30, 40, 30, 90]])
    for predicted in (jnp.zeros((2, 4)), jnp.array(BOXES[:2]), corner, jnp.array([[0.0, 0, 1e8, 1e8]] * 2)):
        assert jnp.isfinite(gradient(predicted)).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_focal_losses_of_sure_logits_have_finite_gradients(power: float) -> None:
    """A power below 1 is infinitely steep at 0, where the loss of what is right and sure ends."""
    logits = jnp.array([[200.0, -200.0], [-1e4, 1e4]])

    @jax.jit
    @jax.grad
    def gradient(logits: jax.Array) -> jax.Array:
        quality = losses.quality_focal(logits, jnp.array([0, 1]), jnp.ones(2), power)
        return losses.sigmoid_focal(logits, jnp.eye(2), power).sum() + quality.sum()

    assert jnp.isfinite(gradient(logits)).all()
