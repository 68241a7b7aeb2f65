"""The distance from a teacher, beside PyTorch in float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jaxft.errors import UserError
from jaxft.tasks.distilling import Distance, mean_distance, sigmoid_distance, softmax_distance, squared_distance


def kl(own: Tensor, other: Tensor, t: float) -> Tensor:
    return functional.kl_div((own / t).log_softmax(-1), (other / t).softmax(-1), reduction="batchmean") * t * t


def binary(own: Tensor, other: Tensor, t: float) -> Tensor:
    wanted = torch.sigmoid(other / t)
    losses = [functional.binary_cross_entropy_with_logits(one / t, wanted) for one in (own, other)]
    return (losses[0] - losses[1]) * t * t


@pytest.mark.parametrize(
    ("distance", "reference"),
    [
        (softmax_distance, kl),
        (sigmoid_distance, binary),
        (squared_distance, lambda own, other, t: functional.mse_loss(own, other)),
    ],
)
def test_distance_and_gradient_are_those_of_pytorch(
    distance: Distance, reference: Callable[[Tensor, Tensor, float], Tensor]
) -> None:
    own, other = np.random.default_rng(0).normal(0, 3, (2, 6, 5))
    leaf = torch.tensor(own, requires_grad=True)
    expected = reference(leaf, torch.tensor(other), 2.5)
    expected.backward()
    with jax.enable_x64(True):
        value, gradients = jax.value_and_grad(lambda pair: mean_distance(*pair, jnp.asarray(2.5), distance))(
            (jnp.asarray(own), jnp.asarray(other))
        )
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(gradients[0], leaf.grad, rtol=1e-9, atol=1e-14)
    assert not np.any(gradients[1])


def test_large_logits_stay_finite_and_equal_ones_are_no_distance() -> None:
    logits = jnp.array([[400.0, -400.0, 0.0]])
    for distance in (softmax_distance, sigmoid_distance):
        value, gradient = jax.value_and_grad(lambda own, far=distance: far(own, -logits, jnp.asarray(1.0)).sum())(
            logits
        )
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert float(distance(logits, logits, jnp.asarray(2.0)).sum()) == 0


def test_other_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"puts out \(2, 3\) and the teacher \(2, 4\), which cannot be compared"):
        mean_distance(jnp.zeros((2, 3)), jnp.zeros((2, 4)), jnp.asarray(1.0), softmax_distance)
    assert mean_distance(jnp.zeros((2, 3)), jnp.zeros((2, 4)), None, softmax_distance) == 0
