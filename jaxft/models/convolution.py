"""The one convolution of the project, in the form that is fastest on the platform it runs on."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import pairwise
from operator import add
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Shape = tuple[int, ...]


class Window(NamedTuple):
    """How a kernel moves over images: all of a convolution that is not an array."""

    strides: Pair
    padding: Padding
    dilation: Pair
    groups: int


class Form(NamedTuple):
    """One way to compute a convolution [N, H, W, C] * [kh, kw, C / groups, K] and its two gradients.

    Of what it differentiates, a gradient uses the shape alone, so that XLA can drop the rest.
    """

    forward: Callable[[Window, Array, Array], Array]  # x, kernel -> y
    input_gradient: Callable[[Window, Array, Array, Array], Array]  # x, kernel, dy -> dx
    kernel_gradient: Callable[[Window, Array, Array, Array], Array]  # x, kernel, dy -> dw


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Convolves images `x` [N, H, W, C] with `kernel` [kh, kw, C / groups, K]; returns [N, H', W', K].

    `padding` is ((top, bottom), (left, right)). Floats narrower than float32 are accumulated in float32; the result has
    the dtype of `x`.
    """
    return _conv(x, kernel, Window(strides, padding, dilation, groups))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, window: Window) -> Array:
    def cpu(x: Array, kernel: Array) -> Array:
        return _cpu_form(x.shape, kernel.shape, window).forward(window, _wide(x), _wide(kernel)).astype(x.dtype)

    return lax.platform_dependent(x, kernel, cpu=cpu, default=partial(_lax_forward, window))


def _conv_fwd(x: Array, kernel: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, window), (x, kernel)


def _conv_bwd(window: Window, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    def gradients(form: Form, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return form.input_gradient(window, x, kernel, dy), form.kernel_gradient(window, x, kernel, dy)

    def cpu(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        dx, dw = gradients(_cpu_form(x.shape, kernel.shape, window), _wide(x), _wide(kernel), _wide(dy))
        return dx.astype(x.dtype), dw.astype(kernel.dtype)

    return lax.platform_dependent(*saved, dy, cpu=cpu, default=partial(gradients, _LAX))


_conv.defvjp(_conv_fwd, _conv_bwd)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


_FEW_PIXELS = 160


def _cpu_form(x: Shape, kernel: Shape, window: Window) -> Form:
    """The fastest form on a CPU for these shapes."""
    if window.groups == 1 and kernel[:2] == (1, 1):
        return _POINTWISE
    if window.groups == x[3] == kernel[3]:
        return _DEPTHWISE
    if window.groups > 1:
        return _GROUPED
    plain = window.strides == (1, 1) and window.dilation == (1, 1)
    # Winograd's form takes three seconds to compile, ten times as long as XLA's own, and saves at most three
    # milliseconds where pixels are so few.
    few = all(isinstance(side, int) for side in x[:3]) and x[0] * x[1] * x[2] <= _FEW_PIXELS
    if plain and kernel[:2] == (3, 3) and min(kernel[2:]) >= 64 and not few:
        return _WINOGRAD
    return _STRIPS if kernel[3] <= 64 and x[1] >= 64 else _LAX


def _differentiated(forward: Callable[[Window, Array, Array], Array]) -> Form:
    """The form whose gradients JAX derives."""
    return Form(
        forward,
        lambda window, x, kernel, dy: jax.vjp(lambda x: forward(window, x, kernel), x)[1](dy)[0],
        lambda window, x, kernel, dy: jax.vjp(lambda kernel: forward(window, x, kernel), kernel)[1](dy)[0],
    )


# XLA's own convolution.
def _lax_forward(window: Window, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


_LAX = _differentiated(_lax_forward)


# The same in four strips of rows. XLA runs a convolution to few channels on one core, but several side by side.
def _strips_forward(window: Window, x: Array, kernel: Array) -> Array:
    strips = _strips(window, x, kernel.shape)
    return jnp.concatenate([_lax_forward(window, strip, kernel) for window, strip, _ in strips], 1)


def _strips_kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    strips = _strips(window, x, kernel.shape)
    return reduce(add, [_LAX.kernel_gradient(window, strip, kernel, dy[:, rows]) for window, strip, rows in strips])


def _strips(window: Window, x: Array, kernel: Shape) -> list[tuple[Window, Array, slice]]:
    """For each strip of the output: its window, the rows of input under it, and which rows of the output it is."""
    ((top, bottom), columns), stride = window.padding, window.strides[0]
    reach = (kernel[0] - 1) * window.dilation[0] + 1
    height = (x.shape[1] + top + bottom - reach) // stride + 1
    count = min(4, height)
    cuts = [height * i // count for i in range(count + 1)]
    inner = window._replace(padding=((0, 0), columns))
    return [
        (inner, _crop(x, (a * stride - top, 0), ((b - a - 1) * stride + reach, x.shape[2])), slice(a, b))
        for a, b in pairwise(cuts)
    ]


_STRIPS = Form(_strips_forward, _LAX.input_gradient, _strips_kernel_gradient)


# 1 x 1: a matrix product over all pixels.
def _thin(window: Window, x: Array) -> Array:
    """The pixels that a 1 x 1 kernel visits."""
    return pad(x, window.padding, 0)[:, :: window.strides[0], :: window.strides[1]]


def _pointwise_forward(window: Window, x: Array, kernel: Array) -> Array:
    return lax.dot_general(_thin(window, x), kernel[0, 0], (((3,), (0,)), ((), ())))


def _pointwise_input_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    thin = lax.dot_general(dy, kernel[0, 0], (((3,), (1,)), ((), ())))
    return jax.linear_transpose(partial(_thin, window), x)(thin)[0]


def _pointwise_kernel_gradient(window: Window, x: Array, kernel: Array, dy: Array) -> Array:
    return _outer(_thin(window, x), dy)[None, None]


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


_POINTWISE = Form(_pointwise_forward, _pointwise_input_gradient, _pointwise_kernel_gradient)


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
    dy = lax.optimization_barrier(_crop(dy, (top, left), (bottom - top + size[0], right - left + size[1])))

    def phase(rows: list[Pair], columns: list[Pair]) -> Array:
        terms = [
            _crop(dy, (row - top, column - left), size) * kernel[i, j, 0][None, None, None]
            for i, row in rows
            for j, column in columns
        ]
        return reduce(add, terms) if terms else jnp.zeros((x.shape[0], *size, x.shape[3]), dy.dtype)

    phases = [[phase(rows, columns) for columns in all_columns] for rows in all_rows]
    return _interleave(phases)[:, : x.shape[1], : x.shape[2]]


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
    x = lax.optimization_barrier(_crop(x, (-top, -left), (last_row + 1, last_column + 1)))
    dy = lax.optimization_barrier(pad(dy, ((0, groups * _ROWS - height), (0, 0)), 0))
    ones = jnp.ones((n, 1, groups * width), dy.dtype)

    def total(tap: Array) -> Array:
        partial_sums = reduce(add, [tap[:, i::_ROWS] * dy[:, i::_ROWS] for i in range(_ROWS)])
        return jnp.matmul(ones, partial_sums.reshape(n, -1, channels)).sum(0)

    taps = views(x, kernel.shape, window.strides, window.dilation)
    return jnp.concatenate([total(tap) for tap in taps]).reshape(kernel.shape)


_ROWS = 7  # divides the heights of images of 224 pixels
_DEPTHWISE = Form(_depthwise_forward, _depthwise_input_gradient, _depthwise_kernel_gradient)


# Groups: bundles of them as ordinary convolutions, with zeros where a channel does not reach a feature. XLA's own
# kernel gradient of a grouped convolution takes 25 seconds at 28 x 28, 16 images, 256 channels in 32 groups.
def _grouped_forward(window: Window, x: Array, kernel: Array) -> Array:
    """As many bundles as leave each with 64 channels of `x`, about the least that fill a matrix product."""
    divisors = [n for n in range(window.groups, 0, -1) if window.groups % n == 0]
    bundles = next((n for n in divisors if window.groups // n * kernel.shape[2] >= 64), 1)
    inner, dense = window._replace(groups=1), partial(_block_diagonal, groups=window.groups // bundles)
    channels, features = x.shape[3] // bundles, kernel.shape[3] // bundles
    if _cpu_form((*x.shape[:3], channels), (*kernel.shape[:2], channels, features), inner) is not _WINOGRAD:
        parts = zip(jnp.split(x, bundles, 3), jnp.split(kernel, bundles, 3), strict=True)
        return jnp.concatenate([_conv(x, dense(kernel), inner) for x, kernel in parts], 3)
    # All bundles in one program: sixteen of Winograd's take ten seconds to compile.
    stacked = [jnp.moveaxis(a.reshape(*a.shape[:3], bundles, -1), 3, 0) for a in (x, kernel)]
    y = jnp.moveaxis(jax.vmap(lambda x, kernel: _conv(x, dense(kernel), inner))(*stacked), 0, 3)
    return y.reshape(*y.shape[:3], -1)


def _block_diagonal(kernel: Array, groups: int) -> Array:
    """The kernel [kh, kw, C / groups, K] as an ungrouped one [kh, kw, C, K]."""
    blocks = np.kron(np.eye(groups), np.ones((kernel.shape[2], kernel.shape[3] // groups)))
    return jnp.tile(kernel, (1, 1, groups, 1)) * jnp.asarray(blocks, kernel.dtype)[None, None]


_GROUPED = _differentiated(_grouped_forward)


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
    return _interleave(_sandwich(_A.T, products))[:, :height, :width]


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


_WINOGRAD = Form(_winograd_forward, _winograd_input_gradient, _winograd_kernel_gradient)


def pad(x: Array, padding: Padding, value: float) -> Array:
    """`x` [N, H, W, C] with a border; a negative width crops."""
    (top, bottom), (left, right) = padding
    return lax.pad(x, jnp.asarray(value, x.dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))


def _crop(x: Array, start: Pair, size: Pair) -> Array:
    """The part of `x` [N, H, W, C] of that size that starts there, zero where it reaches outside."""
    (top, left), (height, width) = start, size
    return pad(x, ((-top, top + height - x.shape[1]), (-left, left + width - x.shape[2])), 0)


def _interleave(block: list[list[Array]]) -> Array:
    """Images whose pixel (a + rows * h, b + columns * w) is pixel (h, w) of block[a][b]."""
    n, height, width, channels = block[0][0].shape
    stacked = jnp.stack([jnp.stack(row, 3) for row in block], 2)
    return stacked.reshape(n, height * len(block), width * len(block[0]), channels)


def views(x: Array, size: Shape, strides: Pair, dilation: Pair) -> list[Array]:
    """The images as each position of a window sees them, in row-major order: kh * kw arrays [N, H', W', C]."""
    height, width = ((x.shape[1 + i] - (size[i] - 1) * dilation[i] - 1) // strides[i] + 1 for i in range(2))
    return [
        x[:, i : i + (height - 1) * strides[0] + 1 : strides[0], j : j + (width - 1) * strides[1] + 1 : strides[1]]
        for i in range(0, size[0] * dilation[0], dilation[0])
        for j in range(0, size[1] * dilation[1], dilation[1])
    ]
