"""A convolution of ours and its gradients, each prepared to be timed."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.batches import convolution
from benchmarks.our_steps import Batch, Step, finish
from jaxft.models.layers import convolution_onednn
from jaxft.models.layers.convolution import conv
from jaxft.models.layers.convolution_forms import WINOGRAD, Form
from jaxft.models.layers.windows import Window
from jaxft.training.step import Compiled

FORMS = {
    "dense": convolution_onednn.DENSE,
    "pointwise": convolution_onednn.POINTWISE,
    "depthwise": convolution_onednn.DEPTHWISE,
    "winograd": WINOGRAD,
}


def part_of(shape: list[int], batch: int, part: int, form: str) -> Step:
    """The output (0), input gradient (1) or kernel gradient (2), in the form of that name, or in our choice."""
    _, _, _, kernel, stride, groups = shape
    edge = kernel // 2, kernel // 2
    window = Window((stride, stride), (edge, edge), (1, 1), groups)
    function = partial(chosen, window) if not form else partial(formed, window, FORMS[form])

    def run(_: None, batch: Batch) -> Array:
        return function(part, batch["x"], batch["kernel"], batch["dy"])

    step = Compiled(run)
    arrays = {
        name: jnp.asarray(array) for name, array in zip(("x", "kernel", "dy"), convolution(shape, batch), strict=True)
    }
    return lambda: finish(step(None, arrays))


def chosen(window: Window, part: int, x: Array, kernel: Array, dy: Array) -> Array:
    """As models compute it."""
    function: Callable[..., Array] = partial(conv, strides=window.strides, padding=window.padding, groups=window.groups)
    return function(x, kernel) if part == 0 else jax.vjp(function, x, kernel)[1](dy)[part - 1]


def formed(window: Window, form: Form, part: int, x: Array, kernel: Array, dy: Array) -> Array:
    """In one form."""
    if part == 0:
        return form.forward(window, x, kernel)
    return (form.input_gradient, form.kernel_gradient)[part - 1](window, x, kernel, dy)
