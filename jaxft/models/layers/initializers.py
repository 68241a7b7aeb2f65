"""What kernels and biases are drawn from, as PyTorch draws them."""

import math
from collections.abc import Callable

import jax
from jax import Array

Init = Callable[[Array, tuple[int, ...]], Array]


def fan_in_uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    """Uniform in +-1/sqrt(fan_in): what `torch.nn.Conv2d` and `torch.nn.Linear` draw weights and biases from."""
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def kaiming_normal_fan_out(key: Array, shape: tuple[int, ...]) -> Array:
    """Normal with deviation sqrt(2 / fan_out), fan_out = out * kh * kw: `kaiming_normal_(mode="fan_out")` in PyTorch.

    `shape` is that of a kernel `[kh, kw, in/groups, out]`.
    """
    return jax.random.normal(key, shape) * math.sqrt(2 / (shape[0] * shape[1] * shape[3]))
