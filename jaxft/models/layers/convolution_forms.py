"""The forms that a convolution can be computed in, each with its two gradients."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import pairwise
from operator import add
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxft.models.layers.windows import Padding, Pair, Shape, Window, crop, interleave, pad, views


class Form(NamedTuple):
    """One way to compute a convolution [N, H, W, C] * [kh, kw, C / groups, K] and its two gradients.

    Of what it differentiates, a gradient uses the shape alone, so that XLA can drop the rest.
    """

    forward: Callable[[Window, Array, Array], Array]  # x, kernel -> y
    input_gradient: Callable[[Window, Array, Array, Array], Array]  # x, kernel, dy -> dx
    kernel_gradient: Callable[[Window, Array, Array, Array], Array]  # x, kernel, dy -> dw


def wide(x: Array) -> Array:
    """`x` in float32, or wider if it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def differentiated(forward: Callable[[Window, Array, Array], Array]) -> Form:
    """The form whose gradients JAX derives."""
    return Form(
        forward,
        lambda window, x, kernel, dy: jax.vjp(lambda x: forward(window, x, kernel), x)[1](dy)[0],
        lambda window, x, kernel, dy: jax.vjp(lambda kernel: forward(window, x, kernel), kernel)[1](dy)[0],
    )


# XLA's own convolution.
def lax_forward(window: Window, x: Array, kernel: Array, dtype: jnp.dtype | None = None) -> Array:
    """As of `Form`; `dtype` is that of the result, by default that of `x`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=dtype,
    )


LAX = differentiated(lax_forward)


# The same in four strips of rows. XLA runs a convolution to few channels on one core, but several side by side.
def _strips_forward(window: Window, x: Array, kernel: Array) -> Array:
    strips = _strips(window, x, kernel.shape)
    return jnp.concatenate([lax_forward(window, strip, kernel) for window, strip, _ in strips], 1)


def _strips_kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    strips = _strips(window, x, kernel.shape)
    return reduce(add, [LAX.kernel_gradient(window, strip, kernel, dy[:, rows]) for window, strip, rows in strips])


def _strips(window: Window, x: Array, kernel: Shape) -> list[tuple[Window, Array, slice]]:
    """For each strip of the output: its window, the rows of input under it, and which rows of the output it is."""
    ((top, bottom), columns), stride = window.padding, window.strides[0]
    reach = (kernel[0] - 1) * window.dilation[0] + 1
    height = (x.shape[1] + top + bottom - reach) // stride + 1
    count = min(4, height)
    cuts = [height * i // count for i in range(count + 1)]
    inner = window._replace(padding=((0, 0), columns))
    return [
        (inner, crop(x, (a * stride - top, 0), ((b - a - 1) * stride + reach, x.shape[2])), slice(a, b))
        for a, b in pairwise(cuts)
    ]


STRIPS = Form(_strips_forward, LAX.input_gradient, _strips_kernel_gradient)


# 1 x 1: a matrix product over all pixels.
def visited(window: Window, x: Array) -> Array:
    """The pixels that a 1 x 1 kernel visits."""
    return pad(x, window.padding, 0)[:, :: window.strides[0], :: window.strides[1]]


def _pointwise_forward(window: Window, x: Array, kernel: Array) -> Array:
    return lax.dot_general(visited(window, x), kernel[0, 0], (((3,), (0,)), ((), ())))


def _pointwise_input_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    thin = lax.dot_general(dy, kernel[0, 0], (((3,), (1,)), ((), ())))
    return jax.linear_transpose(partial(visited, window), x)(thin)[0]


def _pointwise_kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    return _outer(visited(window, x), dy)[None, None]


def _outer(x: Array, y: Array) -> Array:
    """Sum over all pixels of x [..., C] times y [..., K]: [C, K].

    Of wide operands, the narrower is transposed in memory first (the barrier keeps XLA from undoing that): a product
    with a transposed operand is slower in XLA than the copy and a plain product.
    """
    if x.shape[-1] > y.shape[-1]:
        return _outer(y, x).T
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    if x.shape[-1] < 128:
        return lax.dot_general(y, x, (((0,), (0,)), ((), ()))).T
    return lax.optimization_barrier(x.T) @ y


POINTWISE = Form(_pointwise_forward, _pointwise_input_gradient, _pointwise_kernel_gradient)


# One kernel a channel: a sum over the positions of the kernel, each a product with a slice of the images.
def _depthwise_forward(window: Window, x: Array, kernel: Array) -> Array:
    taps = views(pad(x, window.padding, 0), kernel.shape, window.strides, window.dilation)
    weights = kernel.reshape(-1, 1, 1, 1, kernel.shape[3])
    return reduce(add, [tap * weight for tap, weight in zip(taps, weights, strict=True)])


def _depthwise_input_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    """Input pixels that are alike modulo the strides receive from the same kernel positions: one sum for each kind."""
    size = -(-x.shape[1] // window.strides[0]), -(-x.shape[2] // window.strides[1])
    all_rows, all_columns = (_reached(window, kernel.shape, axis) for axis in range(2))
    top, left = (min(start for rows in reached for _, start in rows) for reached in (all_rows, all_columns))
    bottom, right = (max(start for rows in reached for _, start in rows) for reached in (all_rows, all_columns))
    # The barrier keeps XLA from computing the border anew in every term.
    dy = lax.optimization_barrier(crop(dy, (top, left), (bottom - top + size[0], right - left + size[1])))

    def phase(rows: list[Pair], columns: list[Pair]) -> Array:
        terms = [
            crop(dy, (row - top, column - left), size) * kernel[i, j, 0][None, None, None]
            for i, row in rows
            for j, column in columns
        ]
        return reduce(add, terms) if terms else jnp.zeros((x.shape[0], *size, x.shape[3]), dy.dtype)

    phases = [[phase(rows, columns) for columns in all_columns] for rows in all_rows]
    return interleave(phases)[:, : x.shape[1], : x.shape[2]]


def _reached(window: Window, kernel: Shape, axis: int) -> list[list[Pair]]:
    """For the input rows r, r + stride, ...: which positions of the kernel reach them, and from which row of dy on."""
    stride = window.strides[axis]
    shifts = [(i, window.padding[axis][0] - i * window.dilation[axis]) for i in range(kernel[axis])]
    return [[(i, (r + shift) // stride) for i, shift in shifts if (r + shift) % stride == 0] for r in range(stride)]


def _depthwise_kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    """Adds up every seventh row in one elementwise loop, and what that leaves in a product with ones.

    XLA would write each tap to memory, and reduce it from there, if it saw a plain sum of products; and without the
    barriers it would keep the taps of the forward pass for that.
    """
    n, height, width, channels = dy.shape
    groups = -(-height // _ROWS)
    (rows, _), (top, left) = window.strides, (window.padding[0][0], window.padding[1][0])
    last_row = (groups * _ROWS - 1) * rows + (kernel.shape[0] - 1) * window.dilation[0]
    last_column = (width - 1) * window.strides[1] + (kernel.shape[1] - 1) * window.dilation[1]
    x = lax.optimization_barrier(crop(x, (-top, -left), (last_row + 1, last_column + 1)))
    dy = lax.optimization_barrier(pad(dy, ((0, groups * _ROWS - height), (0, 0)), 0))
    ones = jnp.ones((n, 1, groups * width), dy.dtype)

    def total(tap: Array) -> Array:
        partial_sums = reduce(add, [tap[:, i::_ROWS] * dy[:, i::_ROWS] for i in range(_ROWS)])
        return jnp.matmul(ones, partial_sums.reshape(n, -1, channels)).sum(0)

    taps = views(x, kernel.shape, window.strides, window.dilation)
    return jnp.concatenate([total(tap) for tap in taps]).reshape(kernel.shape)


_ROWS = 7  # divides the heights of images of 224 pixels
DEPTHWISE = Form(_depthwise_forward, _depthwise_input_gradient, _depthwise_kernel_gradient)


# 3 x 3: Winograd's F(2 x 2, 3 x 3) as in Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015: tiles
# of 2 x 2 outputs from 4 x 4 inputs, y = A'[(G g G') * (B' d B)]A, in 16 matrix products where the definition has 36.

_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]]).T
_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]).T
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def _winograd_forward(window: Window, x: Array, kernel: Array) -> Array:
    return _winograd(window.padding, x, [list(row) for row in kernel], 0)


def _winograd_input_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    (top, bottom), (left, right) = window.padding
    turned = [list(row[::-1]) for row in kernel[::-1]]
    return _winograd(((2 - top, 2 - bottom), (2 - left, 2 - right)), dy, turned, 1)


def _winograd(padding: Padding, x: Array, kernel: list[list[Array]], contracted: int) -> Array:
    """Convolves `x` with 3 x 3 matrices, whose axis `contracted` meets the channels of `x`."""
    height, width = (x.shape[1 + i] + sum(padding[i]) - 2 for i in range(2))
    tiles, weights = _sandwich(_B.T, _tiles(padding, x)), _sandwich(_G, kernel)
    contract = partial(lax.dot_general, dimension_numbers=(((3,), (contracted,)), ((), ())))
    products = [[contract(t, w) for t, w in zip(*rows, strict=True)] for rows in zip(tiles, weights, strict=True)]
    return interleave(_sandwich(_A.T, products))[:, :height, :width]


def _winograd_kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    even = pad(dy, ((0, dy.shape[1] % 2), (0, dy.shape[2] % 2)), 0)
    outputs = _sandwich(_A, [[even[:, i::2, j::2] for j in range(2)] for i in range(2)])
    tiles = _sandwich(_B.T, _tiles(window.padding, x))
    products = [[_outer(t, o) for t, o in zip(*rows, strict=True)] for rows in zip(tiles, outputs, strict=True)]
    return jnp.stack([jnp.stack(row) for row in _sandwich(_G.T, products)])


def _tiles(padding: Padding, x: Array) -> list[list[Array]]:
    """Element i, j of every 4 x 4 tile of the padded images, the tiles two pixels apart: 4 x 4 arrays [N, h, w, C]."""
    (top, bottom), (left, right) = padding
    height, width = x.shape[1] + top + bottom, x.shape[2] + left + right
    x = pad(x, ((top, bottom + height % 2), (left, right + width % 2)), 0)
    taps = views(x, (4, 4), (2, 2), (1, 1))
    return [taps[i : i + 4] for i in range(0, 16, 4)]


def _sandwich(matrix: np.ndarray, block: list[list[Array]]) -> list[list[Array]]:
    """matrix @ block @ matrix.T for a block whose elements are arrays."""
    left = [[_combine(row, column) for column in zip(*block, strict=True)] for row in matrix]
    return [[_combine(row, line) for row in matrix] for line in left]


def _combine(coefficients: np.ndarray, arrays: Sequence[Array]) -> Array:
    pairs = zip(coefficients.tolist(), arrays, strict=True)
    return reduce(add, [array if c == 1 else c * array for c, array in pairs if c])


WINOGRAD = Form(_winograd_forward, _winograd_input_gradient, _winograd_kernel_gradient)
