"""Pooling on `[N, H, W, C]`: maxima and means of windows, and of the whole map; as functions, and as layers, which are
values that can be compared."""

from dataclasses import dataclass
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxft.models.layers.shapes import IntOrPair, pair
from jaxft.models.layers.windows import Padding, Pair, pad, views


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: Array, window: Pair, strides: Pair, padding: Padding = ((0, 0), (0, 0))) -> Array:
    """The maximum of each window of `x` [N, H, W, C], padded with minus infinity.

    The gradient goes to the first maximum of a window in row-major order, as in PyTorch.
    """

    return lax.platform_dependent(
        x,
        cpu=lambda x: reduce(jnp.maximum, views(pad(x, padding, -jnp.inf), window, strides, (1, 1))),
        default=lambda x: _reduce_window(x, window, strides, padding),
    )


def _reduce_window(x: Array, window: Pair, strides: Pair, padding: Padding) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))


def _max_pool_fwd(x: Array, window: Pair, strides: Pair, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    y: Array = max_pool(x, window, strides, padding)
    return y, (x, y)


def _max_pool_bwd(window: Pair, strides: Pair, padding: Padding, saved: tuple[Array, Array], dy: Array) -> tuple[Array]:
    def slices(x: Array, y: Array, dy: Array) -> Array:
        def taps(x: Array) -> list[Array]:
            return views(pad(x, padding, -jnp.inf), window, strides, (1, 1))

        cotangents, free = [], jnp.ones(y.shape, bool)
        for tap in taps(x):
            first = (tap == y) & free
            free &= ~first
            cotangents.append(jnp.where(first, dy, 0))
        return jax.linear_transpose(taps, x)(cotangents)[0]

    def scatter(x: Array, y: Array, dy: Array) -> Array:
        return jax.vjp(lambda x: _reduce_window(x, window, strides, padding), x)[1](dy)[0]

    return (lax.platform_dependent(*saved, dy, cpu=slices, default=scatter),)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def global_average_pool(x: Array) -> Array:
    """`[N, H, W, C]` -> `[N, C]`: `AdaptiveAvgPool2d(1)` and `flatten`."""
    return x.mean((1, 2))


def average_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
    """`torch.nn.AvgPool2d(size, stride, padding)`, which counts the zeros of the padding; float32 or wider inside."""
    border = (padding, padding)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    window, strides, pads = (1, size, size, 1), (1, stride, stride, 1), ((0, 0), border, border, (0, 0))
    return (jax.lax.reduce_window(wide, 0.0, jax.lax.add, window, strides, pads) / size**2).astype(x.dtype)


def max_pool_ceil(x: Array, size: int, stride: int) -> Array:
    """`torch.nn.MaxPool2d(size, stride, ceil_mode=True)`, size >= stride: the last windows may reach over the edge."""
    bottom, right = (-(length - size) % stride for length in x.shape[1:3])
    return max_pool(x, (size, size), (stride, stride), ((0, bottom), (0, right)))


def adaptive_average_pool(x: Array, size: IntOrPair) -> Array:
    """`[N, H, W, C]` -> `[N, *size, C]`: each output is the mean over rows floor(i*H/h) to ceil((i+1)*H/h), as
    `torch.nn.AdaptiveAvgPool2d` cuts them; computed as two small matrix products."""

    def weights(length: int, parts: int) -> Array:
        cells = jnp.arange(length)[None]
        start = (jnp.arange(parts) * length // parts)[:, None]
        end = ((jnp.arange(1, parts + 1) * length + parts - 1) // parts)[:, None]
        return jnp.where((cells >= start) & (cells < end), 1 / (end - start), 0).astype(x.dtype)

    rows, columns = pair(size)
    return jnp.einsum("nhwc,ph,qw->npqc", x, weights(x.shape[1], rows), weights(x.shape[2], columns))


@dataclass(frozen=True)
class MaxPool:
    """`torch.nn.MaxPool2d`; `ceil`: the last windows may reach over the edge, if they begin before it."""

    size: IntOrPair
    stride: IntOrPair
    padding: IntOrPair = 0
    ceil: bool = False

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, C]` -> `[N, H', W', C]`."""
        window, strides, border = pair(self.size), pair(self.stride), pair(self.padding)
        edges = [self._edges(*axis) for axis in zip(x.shape[1:3], window, strides, border, strict=True)]
        pooled: Array = max_pool(x, window, strides, (edges[0], edges[1]))
        return pooled

    def _edges(self, length: int, size: int, stride: int, border: int) -> Pair:
        """Pixels to add before and after an axis."""
        if not self.ceil:
            return border, border
        count = -(-(length + 2 * border - size) // stride) + 1
        count -= (count - 1) * stride >= length + border
        return border, (count - 1) * stride + size - length - border


@dataclass(frozen=True)
class AveragePool:
    """`torch.nn.AvgPool2d`, which counts the zeros of the padding."""

    size: int
    stride: int
    padding: int = 0

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, C]` -> `[N, H', W', C]`."""
        return average_pool(x, self.size, self.stride, self.padding)


@dataclass(frozen=True)
class AdaptiveAveragePool:
    """`torch.nn.AdaptiveAvgPool2d`."""

    size: IntOrPair = 1

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, C]` -> `[N, *size, C]`."""
        if pair(self.size) == (1, 1):
            return x.mean((1, 2), keepdims=True)
        return adaptive_average_pool(x, self.size)
