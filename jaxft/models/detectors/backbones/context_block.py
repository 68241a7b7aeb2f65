"""The global context block: what a whole map has in common, added to each of its pixels.

Cao et al. 2019, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", https://arxiv.org/abs/1904.11492;
with pooling by attention and fusion by addition, under the names of mmcv's `ContextBlock`.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.layers import Conv, Sequential


class MapNorm(nnx.Module):
    """`torch.nn.LayerNorm([C, 1, 1])` on `[N, 1, 1, C]`; its parameters have PyTorch's names and shape."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        self.eps = eps
        self.weight = nnx.Param(jnp.ones((channels, 1, 1)))
        self.bias = nnx.Param(jnp.zeros((channels, 1, 1)))

    def __call__(self, x: Array) -> Array:
        """In the dtype of `x`; in float32 or wider inside."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centered = wide - wide.mean(-1, keepdims=True)
        normal = centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + self.eps)
        weight, bias = (variable[...].reshape(1, 1, 1, -1) for variable in (self.weight, self.bias))
        return (normal * weight + bias).astype(x.dtype)


class ContextBlock(nnx.Module):
    """Maps `[N, H, W, C]` -> the same shape: pixels are averaged by a learned attention, and the mean, after a
    bottleneck of `ratio * C` channels, is added to all of them. At first nothing is added."""

    def __init__(self, channels: int, ratio: float, *, rngs: nnx.Rngs) -> None:
        planes = int(channels * ratio)
        self.conv_mask = Conv(channels, 1, 1, init=_kaiming_normal_fan_in, bias_init=_zeros, rngs=rngs)
        last = Conv(planes, channels, 1, init=_zeros, bias_init=_zeros, rngs=rngs)
        self.channel_add_conv = Sequential([Conv(channels, planes, 1, rngs=rngs), MapNorm(planes), nnx.relu, last])

    def __call__(self, x: Array) -> Array:
        """The maps with their context added."""
        logits = self.conv_mask(x)
        wide = logits.astype(jnp.promote_types(x.dtype, jnp.float32))
        weights = jax.nn.softmax(wide, (1, 2)).astype(x.dtype)
        context = (x * weights).sum((1, 2), keepdims=True)
        return x + self.channel_add_conv(context)


def _zeros(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.zeros(shape)


def _kaiming_normal_fan_in(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.normal(key, shape) * math.sqrt(2 / math.prod(shape[:3]))
