"""A convolution and its gradients as convolutions of forward shape, which is what oneDNN takes from XLA."""

from functools import reduce
from math import gcd
from operator import add
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxft.models.layers.convolution_forms import WINOGRAD, Form, lax_forward, visited
from jaxft.models.layers.windows import Pair, Shape, Window, interleave, pad

_WINOGRAD_WORK = 1e9  # multiplications and additions from which on half a second of compiling is worth it
_IMAGES = 16  # of a chunk: with more, oneDNN takes another kernel, three times as slow at 56 x 56 pixels


def onednn_form(x: Shape, kernel: Shape, window: Window) -> Form:
    """The fastest form for these shapes with oneDNN; `benchmarks/convolution.py` measures them."""
    if window.groups == 1 and kernel[:2] == (1, 1):
        return POINTWISE
    if window.groups == x[3] == kernel[3]:
        return DEPTHWISE
    work = 2 * x[0] * x[1] * x[2] * kernel[0] * kernel[1] * kernel[2] * kernel[3]
    plain = window.strides == window.dilation == (1, 1) and window.groups == 1 and kernel[:2] == (3, 3)
    if not plain or min(kernel[2:]) < 64 or work < _WINOGRAD_WORK:
        return DENSE
    return WINOGRAD if min(kernel[2:]) >= 256 else DENSE._replace(kernel_gradient=WINOGRAD.kernel_gradient)


class _Phase(NamedTuple):
    """Along one axis: which positions of the kernel the input pixels a, a + stride, ... meet, and how they move."""

    taps: slice
    padding: Pair
    dilation: int


def _phase(window: Window, axis: int, a: int, size: int, kernel: int, outputs: int) -> _Phase | None:
    """Pixel `stride * q + a` meets position i in row `q + (a + padding - i * dilation) / stride` of the output."""
    stride, dilation, before = window.strides[axis], window.dilation[axis], window.padding[axis][0]
    met = [i for i in range(kernel) if (a + before - i * dilation) % stride == 0]
    if not met:
        return None
    first = (a + before - met[-1] * dilation) // stride
    apart = dilation // gcd(stride, dilation)
    after = size + (len(met) - 1) * apart + first - outputs
    if first >= outputs or after <= -outputs:  # what they meet lies outside of the output
        return None
    step = stride // gcd(stride, dilation)
    return _Phase(slice(met[-1], met[0] - 1 if met[0] else None, -step), (-first, after), apart)


def _input_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    """A convolution of `dy` for each kind of input pixel, those that are alike modulo the strides."""
    kh, kw, inputs, _ = kernel.shape
    size = -(-x.shape[1] // window.strides[0]), -(-x.shape[2] // window.strides[1])
    rows, columns = (
        [_phase(window, axis, a, size[axis], kernel.shape[axis], dy.shape[1 + axis]) for a in range(stride)]
        for axis, stride in enumerate(window.strides)
    )
    by_group = kernel.reshape(kh, kw, inputs, window.groups, -1)
    swapped = by_group.transpose(0, 1, 4, 3, 2).reshape(kh, kw, -1, window.groups * inputs)

    def phase(row: _Phase | None, column: _Phase | None) -> Array:
        if row is None or column is None:
            return jnp.zeros((x.shape[0], *size, x.shape[3]), dy.dtype)
        # Without the barrier XLA takes the turned kernel for a window that is turned, which oneDNN does not know.
        turned = lax.optimization_barrier(swapped[row.taps, column.taps])
        (top, bottom), (left, right) = row.padding, column.padding
        within = pad(dy, ((min(top, 0), min(bottom, 0)), (min(left, 0), min(right, 0))), 0)
        border = ((max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)))
        return lax_forward(Window((1, 1), border, (row.dilation, column.dilation), window.groups), within, turned)

    if window.strides == (1, 1):
        return phase(rows[0], columns[0])
    return interleave([[phase(row, column) for column in columns] for row in rows])[:, : x.shape[1], : x.shape[2]]


def _kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    """Images as the channels of a convolution of `x` with `dy`, the input channels as its images."""
    chunks, x, window = -(-x.shape[0] // _IMAGES), *_exactly(window, x, kernel.shape, dy)
    one = _swapped if window.groups == 1 else _swapped_groups
    return reduce(add, [one(window, x[i::chunks], dy[i::chunks]) for i in range(chunks)])


def _exactly(window: Window, x: Array, kernel: Shape, dy: Array) -> tuple[Array, Window]:
    """How `dy` moves over `x`, so that just the positions of the kernel come out: what were steps from output to output
    are steps within `dy`, and the reverse. What no output has seen is cut off `x`."""

    def beyond(axis: int) -> int:
        seen = (dy.shape[1 + axis] - 1) * window.strides[axis] + (kernel[axis] - 1) * window.dilation[axis] + 1
        return seen - x.shape[1 + axis] - window.padding[axis][0]

    bottom, right = beyond(0), beyond(1)
    if -bottom >= x.shape[1] or -right >= x.shape[2]:  # where whole windows lie within the padding
        x = pad(x, window.padding, 0)
        window = window._replace(padding=((0, 0), (0, 0)))
        bottom, right = beyond(0), beyond(1)
    x = pad(x, ((0, min(bottom, 0)), (0, min(right, 0))), 0)
    border = (window.padding[0][0], max(bottom, 0)), (window.padding[1][0], max(right, 0))
    return x, Window(window.dilation, border, window.strides, window.groups)


def _swapped(window: Window, x: Array, dy: Array) -> Array:
    axes = ("CHWN", "IHWO", "HWNC")
    return lax.conv_general_dilated(
        x, dy, window.strides, window.padding, rhs_dilation=window.dilation, dimension_numbers=axes
    )


def _swapped_groups(window: Window, x: Array, dy: Array) -> Array:
    n, height, width, _channels = x.shape
    by_group = x.reshape(n, height, width, window.groups, -1).transpose(4, 1, 2, 3, 0)
    y = lax_forward(window, by_group.reshape(-1, height, width, window.groups * n), dy.transpose(1, 2, 0, 3))
    return y.transpose(1, 2, 0, 3)


def _pointwise_kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    x, dy = visited(window, x).reshape(-1, x.shape[3]), dy.reshape(-1, dy.shape[3])
    return lax.dot_general(x, dy, (((0,), (0,)), ((), ())))[None, None]


def _depthwise_kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    """One image after another, so that nothing is moved in memory: `x` convolved with `dy`, channel by channel."""
    x, window = _exactly(window, x, kernel.shape, dy)

    def plus(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
        return total + lax_forward(window, image[0][None], image[1][:, :, None])[0][:, :, None], None

    return lax.scan(plus, jnp.zeros(kernel.shape, x.dtype), (x, dy))[0]


DENSE = Form(lax_forward, _input_gradient, _kernel_gradient)
POINTWISE = DENSE._replace(kernel_gradient=_pointwise_kernel_gradient)
DEPTHWISE = DENSE._replace(kernel_gradient=_depthwise_kernel_gradient)
