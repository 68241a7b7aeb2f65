"""Elastic response distillation beside ERD's formulas, written once more in PyTorch, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jaxft.detection.elastic import Answers, elastic_terms, far_above

PLACES, CLASSES, BINS = 120, 3, 5


def overlap(one: Tensor, other: Tensor) -> float:
    sides = torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])
    if (sides <= 0).any():
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(sides.prod() / (areas[0] + areas[1] - sides.prod()))


def sure(values: Tensor) -> Tensor:
    return (values > values.mean() + 2 * values.std()).nonzero()[:, 0]


def reference(
    logits: Tensor, edges: Tensor, theirs: Tensor, their_edges: Tensor, points: Tensor, scale: Tensor, t: float
) -> Tensor:
    """The losses of classes and of boxes of one image, all of whose places count; boxes of each class are thinned one
    by one."""
    places = sure(theirs.sigmoid().max(1).values)
    classes = (logits[places] - theirs[places]).pow(2).mean() if len(places) else 0 * logits.sum()
    steps = torch.arange(BINS, dtype=torch.float64)
    distances = their_edges.reshape(-1, 4, BINS).softmax(-1) @ steps * scale[:, None]
    boxes = torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)
    score, label = theirs.sigmoid().max(1)
    kept: list[int] = []
    for place in sorted(sure(their_edges.max(1).values).tolist(), key=lambda place: -float(score[place])):
        alike = [other for other in kept if label[other] == label[place]]
        if all(overlap(boxes[place], boxes[other]) <= 0.005 for other in alike):
            kept.append(place)
    if not kept:
        return torch.stack([classes, 0 * edges.sum()])
    own, other = (rows[kept].reshape(-1, BINS) / t for rows in (edges, their_edges))
    far = functional.kl_div(own.log_softmax(1), other.softmax(1), reduction="none").mean(1) * t * t
    weight = logits[kept].detach().sigmoid().max(1).values
    return torch.stack([classes, (far * weight[:, None].expand(-1, 4).reshape(-1)).sum()])


def arrays(seed: int) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    logits, theirs = random.normal(-2, 1.5, (2, PLACES, CLASSES))
    edges, their_edges = random.normal(0, 2, (2, PLACES, 4 * BINS))
    points = random.uniform(0, 25, (PLACES, 2))
    return logits, edges, theirs, their_edges, points


@pytest.mark.parametrize("scale_boxes", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_losses_and_gradients_are_those_of_the_formulas(seed: int, scale_boxes: bool) -> None:
    logits, edges, theirs, their_edges, points = arrays(seed)
    strides = np.where(np.arange(PLACES) < 80, 1.0, 2.0)
    leaves = [torch.tensor(array, requires_grad=True) for array in (logits, edges)]
    scale = torch.tensor(strides if scale_boxes else np.ones(PLACES))
    expected = reference(*leaves, *map(torch.tensor, (theirs, their_edges, points)), scale, 10.0)
    assert (expected.detach() > 0).all()
    (expected * torch.tensor([0.7, 1.3], dtype=torch.float64)).sum().backward()
    # Places that do not count, with garbage, behind those that do.
    padded = [np.concatenate([array, np.full_like(array[:30], 50.0)]) for array in (logits, edges, theirs, their_edges)]
    rest = np.concatenate([points, points[:30]]), np.concatenate([strides, strides[:30]])
    there = np.arange(PLACES + 30) < PLACES
    with jax.enable_x64(True):

        def total(logits: jax.Array, edges: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            old = Answers(*map(jnp.asarray, padded[2:]))
            given = old, *map(jnp.asarray, (*rest, there))
            found = elastic_terms(Answers(logits, edges), *given, 10.0, scale_boxes=scale_boxes)
            return 0.7 * found.classes + 1.3 * found.boxes, tuple(found)

        gradients, found = jax.jit(jax.grad(total, (0, 1), has_aux=True))(*map(jnp.asarray, padded[:2]))
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-9)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(gradient[:PLACES], leaf.grad, rtol=1e-9, atol=1e-12)
        assert not np.any(gradient[PLACES:])


def test_nothing_is_lost_where_no_place_is_sure() -> None:
    """All say the same, or there is no place at all."""
    flat, edges = jnp.zeros((40, 2)), jnp.zeros((40, 4 * BINS))
    points, strides = jnp.zeros((40, 2)), jnp.ones(40)

    def total(logits: jax.Array, edges: jax.Array, there: jax.Array) -> jax.Array:
        own, old = Answers(logits, edges), Answers(flat, 0 * edges)
        return sum(elastic_terms(own, old, points, strides, there, 10.0), jnp.zeros(()))

    step = jax.jit(jax.value_and_grad(total, (0, 1)))
    for there in (jnp.ones(40, bool), jnp.zeros(40, bool), jnp.arange(40) == 3):
        value, gradients = step(flat + 1, edges + 2, there)
        assert value == 0
        assert not any(np.any(gradient) for gradient in gradients)


def test_no_more_places_are_sure_than_there_is_room_for() -> None:
    """The most extreme of all distributions: a fifth of the places say one thing, the others another."""
    values = jnp.concatenate([jnp.ones(19), jnp.zeros(81)])
    assert int(far_above(values, jnp.ones(100, bool)).sum()) == 19
    assert not far_above(jnp.concatenate([jnp.ones(20), jnp.zeros(80)]), jnp.ones(100, bool)).any()
