"""How far the classes of two detectors are from each other."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from jaxft.errors import UserError
from jaxft.models.detectors.dense.outputs import DenseOutputs
from jaxft.models.detectors.types import ClassLoss
from jaxft.tasks.detection.teaching import class_distance, inside
from tests.models.detectors.test_elastic_head import PAD, SIZES, STRIDES, random_outputs

T = 3.0


def distance(own: DenseOutputs, other: DenseOutputs, loss: ClassLoss, classes: int) -> Any:
    head = SimpleNamespace(loss_cls=loss, num_classes=classes)
    return class_distance(head, own, other, jnp.asarray(SIZES), PAD, jnp.asarray(T))


@pytest.mark.parametrize(("kind", "classes"), [("focal", 3), ("softmax", 2)])
def test_it_is_pytorchs_mean_over_the_places_in_the_photos(kind: Any, classes: int) -> None:
    own, other = random_outputs(0, 3), random_outputs(1, 3)
    losses = []
    for stride, one, two in zip(STRIDES, own.scores, other.scores, strict=True):
        for row, (height, width) in enumerate(SIZES):
            cells = row, slice(-(-height // stride)), slice(-(-width // stride))
            pair = [torch.tensor(level[cells].reshape(-1, 3)) / T for level in (one, two)]
            if kind == "softmax":
                far = functional.kl_div(pair[0].log_softmax(1), pair[1].softmax(1), reduction="none").sum(1)
            else:
                wanted = pair[1].sigmoid()
                crosses = [functional.binary_cross_entropy_with_logits(x, wanted, reduction="none") for x in pair]
                far = (crosses[0] - crosses[1]).mean(1)
            losses.append(far * T * T)
    with jax.enable_x64(True):
        found = distance(own, other, ClassLoss(kind), classes)
        np.testing.assert_allclose(found, torch.cat(losses).mean().item(), rtol=1e-9)
        garbage = []
        for level in own.scores:
            there = np.asarray(inside(level.shape[1:3], PAD, jnp.asarray(SIZES)))
            garbage.append(np.where(there[..., None], level, 1e6))
        np.testing.assert_array_equal(
            distance(own._replace(scores=tuple(garbage)), other, ClassLoss(kind), classes), found
        )


def test_other_maps_are_refused() -> None:
    with pytest.raises(UserError, match=r"the teacher's \[\(3, 8, 12, 2\), .* which cannot be compared"):
        distance(random_outputs(0, 3), random_outputs(1, 2), ClassLoss("focal"), 3)
