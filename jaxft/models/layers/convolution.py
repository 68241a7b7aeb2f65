"""The one convolution of the project, in the form that is fastest on the platform it runs on."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxft.models.layers.convolution_forms import (
    DEPTHWISE,
    LAX,
    POINTWISE,
    STRIPS,
    WINOGRAD,
    Form,
    differentiated,
    lax_forward,
    wide,
)
from jaxft.models.layers.convolution_onednn import onednn_form
from jaxft.models.layers.onednn import apart, traced_for
from jaxft.models.layers.per_image import per_image, sum_over_images
from jaxft.models.layers.windows import Padding, Pair, Shape, Window


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
    dtype: jnp.dtype | None = None,
) -> Array:
    """Convolves images `x` [N, H, W, C] with `kernel` [kh, kw, C / groups, K]; returns [N, H', W', K].

    `padding` is ((top, bottom), (left, right)). Floats narrower than float32 are accumulated in float32; the result has
    the dtype of `x`, or the wider `dtype`. Products carry JAX's default precision on every platform.
    """
    return _conv(x, kernel, Window(strides, padding, dilation, groups), jnp.dtype(dtype or x.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, kernel: Array, window: Window, dtype: jnp.dtype) -> Array:
    def cpu(x: Array) -> Array:
        return apart(_cpu_form(x, kernel, window).forward(window, wide(x), wide(kernel))).astype(dtype)

    def default(x: Array) -> Array:
        return lax_forward(window, x, kernel, dtype)

    each = per_image if window.groups > 1 else _all  # else XLA brings all images to every device (openxla/xla#47945)
    return each(lambda x: lax.platform_dependent(x, cpu=cpu, default=default), x)


def _all(function: Callable[..., Array], *arrays: Array) -> Array:
    return function(*arrays)


def _conv_fwd(x: Array, kernel: Array, window: Window, dtype: jnp.dtype) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, window, dtype), (x, kernel)


def _conv_bwd(window: Window, _: jnp.dtype, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    (x, kernel), dy = saved, dy.astype(saved[0].dtype)  # wide outputs have gradients like all others

    def input_gradient(x: Array, dy: Array) -> Array:
        def cpu(x: Array, dy: Array) -> Array:
            form = _cpu_form(x, kernel, window)
            return apart(form.input_gradient(window, wide(x), wide(kernel), wide(dy))).astype(x.dtype)

        return lax.platform_dependent(x, dy, cpu=cpu, default=lambda x, dy: LAX.input_gradient(window, x, kernel, dy))

    def kernel_gradient(x: Array, dy: Array) -> Array:
        def cpu(x: Array, dy: Array) -> Array:
            form = _cpu_form(x, kernel, window)
            return form.kernel_gradient(window, wide(x), wide(kernel), wide(dy)).astype(total)

        def default(x: Array, dy: Array) -> Array:
            return LAX.kernel_gradient(window, x, kernel, dy).astype(total)

        return lax.platform_dependent(x, dy, cpu=cpu, default=default)

    each = per_image if window.groups > 1 else _all
    summed = sum_over_images if window.groups > 1 or traced_for() else _all  # oneDNN's form takes some at a time
    # What devices sum up is wide, and rounded once.
    total = kernel.dtype if summed is _all else wide(kernel).dtype
    return each(input_gradient, x, dy), summed(kernel_gradient, x, dy).astype(kernel.dtype)


_conv.defvjp(_conv_fwd, _conv_bwd)
_FEW_PIXELS = 160


def _cpu_form(x: Array, kernel: Array, window: Window) -> Form:
    """The fastest form on a CPU for these arrays; oneDNN knows no numbers wider than float32."""
    if traced_for() and jnp.promote_types(x.dtype, jnp.float32) == jnp.float32:
        return onednn_form(x.shape, kernel.shape, window)
    return xla_form(x.shape, kernel.shape, window)


def xla_form(x: Shape, kernel: Shape, window: Window) -> Form:
    """The fastest form of XLA's own operations for these shapes."""
    if window.groups == 1 and kernel[:2] == (1, 1):
        return POINTWISE
    if window.groups == x[3] == kernel[3]:
        return DEPTHWISE
    if window.groups > 1:
        return GROUPED
    plain = window.strides == (1, 1) and window.dilation == (1, 1)
    # Winograd's form takes three seconds to compile, ten times as long as XLA's own, and saves at most three
    # milliseconds where pixels are so few.
    few = all(isinstance(side, int) for side in x[:3]) and x[0] * x[1] * x[2] <= _FEW_PIXELS
    if plain and kernel[:2] == (3, 3) and min(kernel[2:]) >= 64 and not few:
        return WINOGRAD
    return STRIPS if kernel[3] <= 64 and x[1] >= 64 else LAX


# Groups: bundles of them as ordinary convolutions, with zeros where a channel does not reach a feature. XLA's own
# kernel gradient of a grouped convolution takes 25 seconds at 28 x 28, 16 images, 256 channels in 32 groups.
def _grouped_forward(window: Window, x: Array, kernel: Array) -> Array:
    """As many bundles as leave each with 64 channels of `x`, about the least that fill a matrix product."""
    divisors = [n for n in range(window.groups, 0, -1) if window.groups % n == 0]
    bundles = next((n for n in divisors if window.groups // n * kernel.shape[2] >= 64), 1)
    inner, dense = window._replace(groups=1), partial(_block_diagonal, groups=window.groups // bundles)
    channels, features = x.shape[3] // bundles, kernel.shape[3] // bundles
    if xla_form((*x.shape[:3], channels), (*kernel.shape[:2], channels, features), inner) is not WINOGRAD:
        parts = zip(jnp.split(x, bundles, 3), jnp.split(kernel, bundles, 3), strict=True)
        return jnp.concatenate([_conv(x, dense(kernel), inner, x.dtype) for x, kernel in parts], 3)
    # All bundles in one program: sixteen of Winograd's take ten seconds to compile.
    stacked = [jnp.moveaxis(a.reshape(*a.shape[:3], bundles, -1), 3, 0) for a in (x, kernel)]
    y = jnp.moveaxis(jax.vmap(lambda x, kernel: _conv(x, dense(kernel), inner, x.dtype))(*stacked), 0, 3)
    return y.reshape(*y.shape[:3], -1)


def _block_diagonal(kernel: Array, groups: int) -> Array:
    """The kernel [kh, kw, C / groups, K] as an ungrouped one [kh, kw, C, K]."""
    blocks = np.kron(np.eye(groups), np.ones((kernel.shape[2], kernel.shape[3] // groups)))
    return jnp.tile(kernel, (1, 1, groups, 1)) * jnp.asarray(blocks, kernel.dtype)[None, None]


GROUPED = differentiated(_grouped_forward)
