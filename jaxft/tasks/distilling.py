"""How far a model's outputs are from a teacher's, of each example; both are arrays of one shape, float32 or wider."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.errors import UserError

Distance = Callable[[Array, Array, Array], Array]


def softmax_distance(logits: Array, theirs: Array, temperature: Array) -> Array:
    """The Kullback-Leibler divergence of softmaxes of logits `[N, ..., C]` over a temperature T, times T^2, `[N, ...]`.

    It is the soft part of https://arxiv.org/abs/1503.02531 (section 2, where T^2 keeps the size of its gradients) less
    the entropy of the teacher, which has no gradient: `kl_div(log_softmax(s / T), softmax(t / T)) * T * T` in PyTorch.
    """
    own, other = jax.nn.log_softmax(logits / temperature), jax.nn.log_softmax(theirs / temperature)
    return temperature**2 * (jnp.exp(other) * (other - own)).sum(-1)


def sigmoid_distance(logits: Array, theirs: Array, temperature: Array) -> Array:
    """The same of a sigmoid each, `[N, ..., C]` -> `[N, ..., C]`: the divergence of two outcomes, times T^2."""
    own, other = logits / temperature, theirs / temperature
    has = jax.nn.sigmoid(other) * (jax.nn.log_sigmoid(other) - jax.nn.log_sigmoid(own))
    has_not = jax.nn.sigmoid(-other) * (jax.nn.log_sigmoid(-other) - jax.nn.log_sigmoid(-own))
    return temperature**2 * (has + has_not)


def squared_distance(outputs: Array, theirs: Array, temperature: Array) -> Array:
    """The squared difference of numbers, which no temperature divides."""
    del temperature
    return jnp.square(outputs - theirs)


def mean_distance(outputs: Array, theirs: Array, temperature: Array | None, distance: Distance) -> Array:
    """The mean of a distance over a batch; 0 where the temperature is None.

    Raises:
        UserError: the outputs have different shapes.
    """
    if temperature is None:
        return jnp.zeros((), outputs.dtype)
    if outputs.shape != theirs.shape:
        raise UserError(
            f"The model puts out {outputs.shape} and the teacher {theirs.shape}, which cannot be compared; take a "
            "teacher with as many outputs, or set distillation.weight to 0 and name features."
        )
    return distance(outputs, jax.lax.stop_gradient(theirs), temperature).mean()
