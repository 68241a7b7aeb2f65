"""Stochastic depth."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


class DropPath(nnx.Module):
    """Stochastic depth: in training, drops a whole example's branch with probability `rate` and scales up the rest.

    Huang et al. 2016, https://arxiv.org/abs/1603.09382; the scaling 1/(1-rate) is that of PyTorch's implementations.
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs) -> None:
        self.rate = rate
        self.deterministic = False
        self.rngs = rngs.dropout.fork()

    def __call__(self, x: Array) -> Array:
        """`[N, ...]` -> the same shape."""
        if self.deterministic or self.rate == 0:
            return x
        keep = jax.random.bernoulli(self.rngs(), 1 - self.rate, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(keep, x / (1 - self.rate), 0)
