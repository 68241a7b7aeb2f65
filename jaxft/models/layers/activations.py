"""Activation functions."""

import jax
import jax.numpy as jnp
from jax import Array


def relu6(x: Array) -> Array:
    """`torch.nn.ReLU6`: x cut to 0..6, with gradient 0 at the kinks as there, where `jax.nn.relu6` gives a half."""
    return jnp.where(x > 0, jnp.where(x < 6, x, 6), 0)


def hard_sigmoid(x: Array) -> Array:
    """`torch.nn.Hardsigmoid`: relu6(x + 3) / 6."""
    return relu6(x + 3) / 6


def hard_swish(x: Array) -> Array:
    """`torch.nn.Hardswish`: x * relu6(x + 3) / 6; Howard et al. 2019, https://arxiv.org/abs/1905.02244."""
    return x * hard_sigmoid(x)


def gelu(x: Array) -> Array:
    """`torch.nn.GELU`: x times the normal distribution's cumulative at x, exact."""
    return jax.nn.gelu(x, approximate=False)
