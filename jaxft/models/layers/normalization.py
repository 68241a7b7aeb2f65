"""Normalization layers with PyTorch's conventions."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.layers.containers import Buffer
from jaxft.models.layers.onednn import apart
from jaxft.models.layers.shapes import along_channels


class LayerNorm(nnx.Module):
    """`torch.nn.LayerNorm` over the last axis: `[..., C]` -> the same shape and dtype, in float32 (or wider) inside."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array) -> Array:
        wide = apart(x).astype(jnp.promote_types(x.dtype, jnp.float32))
        centered = wide - wide.mean(-1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + self.eps)
        scale, bias = (along_channels(vector[...], x) for vector in (self.scale, self.bias))
        return (centered * factor * scale + bias).astype(x.dtype)


class BatchNorm(nnx.Module):
    """`torch.nn.BatchNorm2d` on `[N, H, W, C]`, or `BatchNorm1d` on `[N, C]`, its running estimates included.

    Training normalizes with the batch's biased variance and moves the running estimates by
    `running = (1 - momentum) * running + momentum * batch` with the batch's *unbiased* variance. That is PyTorch's
    convention for both; Flax's own layer differs in both. Evaluation normalizes with the running estimates. Arithmetic
    is float32 (or wider) whatever the dtype of the activations.

    `use_running_average` is what `model.train()` and `model.eval()` set. `running_only` wins over it: such a layer uses
    and keeps its running estimates always; see `jaxft.optim.set_modes`.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum = eps, momentum
        self.use_running_average = False
        self.running_only = False
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.num_batches_tracked = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x: Array, used: Array | None = None) -> Array:
        """`[N, ..., C]` -> the same shape and dtype; only `used` bool `[N]` images count in the batch's statistics."""
        wide, axes = x.astype(jnp.promote_types(x.dtype, jnp.float32)), tuple(range(x.ndim - 1))
        if self.use_running_average or self.running_only:
            mean, var = self.mean[...], self.var[...]
        elif used is None:
            mean = wide.mean(axes)
            var = jnp.square(wide - along_channels(mean, x)).mean(axes)
            self._track(mean, var, x.size // x.shape[-1], self.momentum)
        else:
            weight = used.astype(wide.dtype).reshape(-1, *(1,) * (x.ndim - 1))
            count = used.sum() * math.prod(x.shape[1:-1])
            mean = (wide * weight).sum(axes) / jnp.maximum(count, 1)
            var = (jnp.square(wide - along_channels(mean, x)) * weight).sum(axes) / jnp.maximum(count, 1)
            self._track(mean, var, count, jnp.where(count > 0, self.momentum, 0))
        factor = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        mean, factor, bias = (along_channels(vector, x) for vector in (mean, factor, self.bias[...]))
        return ((wide - mean) * factor + bias).astype(x.dtype)

    def _track(self, mean: Array, var: Array, count: int | Array, take: float | Array) -> None:
        unbiased = var * (count / (max(count - 1, 1) if isinstance(count, int) else jnp.maximum(count - 1, 1)))
        keep = 1 - take
        self.mean.set_value(keep * self.mean[...] + take * jax.lax.stop_gradient(mean))
        self.var.set_value(keep * self.var[...] + take * jax.lax.stop_gradient(unbiased))
        self.num_batches_tracked.set_value(self.num_batches_tracked[...] + 1)


class FrozenBatchNorm(nnx.Module):
    """`torchvision.ops.FrozenBatchNorm2d`: batch norm whose four vectors are constants, in training as well."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        self.eps = eps
        self.scale, self.bias = Buffer(jnp.ones(channels)), Buffer(jnp.zeros(channels))
        self.mean, self.var = Buffer(jnp.zeros(channels)), Buffer(jnp.ones(channels))

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, C]` -> the same shape and dtype."""
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.eps)
        shift = self.bias[...] - self.mean[...] * factor
        return (x * along_channels(factor, x) + along_channels(shift, x)).astype(x.dtype)


class GroupNorm(nnx.Module):
    """`torch.nn.GroupNorm` on `[N, H, W, C]`: each image's groups of channels alone; float32 or wider inside."""

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5) -> None:
        self.groups, self.eps = groups, eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, C]` -> the same shape and dtype."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(*x.shape[:3], self.groups, -1)
        centered = wide - wide.mean((1, 2, 4), keepdims=True)
        factor = jax.lax.rsqrt(jnp.square(centered).mean((1, 2, 4), keepdims=True) + self.eps)
        scale, bias = (along_channels(vector[...], x) for vector in (self.scale, self.bias))
        return ((centered * factor).reshape(x.shape) * scale + bias).astype(x.dtype)
