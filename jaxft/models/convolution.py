"""The one convolution of the project, and max pooling, each in the form that is fastest on the platform it runs on."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


class Window(NamedTuple):
    """How a kernel moves over an image: everything about a convolution that is not an array."""

    strides: Pair
    padding: Padding
    dilation: Pair
    groups: int


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Convolves images `x` [N, H, W, C] with `kernel` [kh, kw, C / groups, K]; returns [N, H', W', K] in the dtype of `x`.

    Padding is explicit, ((top, bottom), (left, right)). Narrow floats are accumulated in float32.
    """
    return _conv(x, kernel, Window(strides, padding, dilation, groups))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, window: Window) -> Array:
    return lax.platform_dependent(x, kernel, cpu=partial(_cpu, window), default=partial(_lax, window))


def _conv_fwd(x: Array, kernel: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, window), (x, kernel)


def _conv_bwd(window: Window, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    def gradients(form, x, kernel, dy):
        return jax.vjp(partial(form, window), x, kernel)[1](dy)

    return lax.platform_dependent(*saved, dy, cpu=partial(gradients, _cpu), default=partial(gradients, _lax))


_conv.defvjp(_conv_fwd, _conv_bwd)


def _lax(window: Window, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _cpu(window: Window, x: Array, kernel: Array) -> Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    form = _lax
    if window.groups == 1 and kernel.shape[:2] == (1, 1):
        form = _pointwise
    elif window.groups == x.shape[3] == kernel.shape[3]:
        form = _depthwise
    return form(window, x.astype(wide), kernel.astype(wide)).astype(x.dtype)


def _pointwise(window: Window, x: Array, kernel: Array) -> Array:
    x = _pad(x, window.padding, 0)[:, :: window.strides[0], :: window.strides[1]]
    return jnp.einsum("nhwc,ck->nhwk", x, kernel[0, 0])


def _depthwise(window: Window, x: Array, kernel: Array) -> Array:
    taps = _taps(_pad(x, window.padding, 0), kernel.shape[:2], window.strides, window.dilation)
    weights = kernel.reshape(-1, 1, 1, 1, kernel.shape[3])
    return sum((tap * weight for tap, weight in zip(taps[1:], weights[1:])), taps[0] * weights[0])


def _pad(x: Array, padding: Padding, value: float) -> Array:
    (top, bottom), (left, right) = padding
    return lax.pad(x, jnp.asarray(value, x.dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))


def _taps(x: Array, size: Pair, strides: Pair, dilation: Pair) -> list[Array]:
    """The padded images as each position of the window sees them, in row-major order: kh * kw arrays [N, H', W', C]."""
    height, width = ((x.shape[1 + i] - (size[i] - 1) * dilation[i] - 1) // strides[i] + 1 for i in range(2))
    return [
        x[:, top : top + (height - 1) * strides[0] + 1 : strides[0], left : left + (width - 1) * strides[1] + 1 : strides[1]]
        for top in range(0, size[0] * dilation[0], dilation[0])
        for left in range(0, size[1] * dilation[1], dilation[1])
    ]


def max_pool(x: Array, window: Pair, strides: Pair, padding: Padding = ((0, 0), (0, 0))) -> Array:
    """The maximum of each window of `x` [N, H, W, C], padded with minus infinity.

    The gradient goes to the first maximum of a window in row-major order, as in PyTorch.
    """
    return _max_pool(x, window, strides, padding)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, window: Pair, strides: Pair, padding: Padding) -> Array:
    def slices(x: Array) -> Array:
        taps = _taps(_pad(x, padding, -jnp.inf), window, strides, (1, 1))
        y = taps[0]
        for tap in taps[1:]:
            y = jnp.maximum(y, tap)
        return y

    return lax.platform_dependent(x, cpu=slices, default=lambda x: _reduce_window(x, window, strides, padding))


def _reduce_window(x: Array, window: Pair, strides: Pair, padding: Padding) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))


def _max_pool_fwd(x: Array, window: Pair, strides: Pair, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    y = _max_pool(x, window, strides, padding)
    return y, (x, y)


def _max_pool_bwd(
    window: Pair, strides: Pair, padding: Padding, saved: tuple[Array, Array], dy: Array
) -> tuple[Array]:
    def slices(x: Array, y: Array, dy: Array) -> Array:
        def taps(x: Array) -> list[Array]:
            return _taps(_pad(x, padding, -jnp.inf), window, strides, (1, 1))

        cotangents, free = [], jnp.ones(y.shape, bool)
        for tap in taps(x):
            chosen = (tap == y) & free
            free &= ~chosen
            cotangents.append(jnp.where(chosen, dy, 0))
        return jax.linear_transpose(taps, x)(cotangents)[0]

    def scatter(x: Array, y: Array, dy: Array) -> Array:
        return jax.vjp(lambda x: _reduce_window(x, window, strides, padding), x)[1](dy)[0]

    return (lax.platform_dependent(*saved, dy, cpu=slices, default=scatter),)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
