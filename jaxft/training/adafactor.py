"""Adafactor with PyTorch's meaning: second moments as rows and columns, steps relative to the parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

DECAY = -0.8  # the power of the step by which the second moment forgets
LEAST = 1e-3  # the root mean square of a parameter is taken to be this at least
CLIP = 1.0  # the root mean square of a step at most


class Factored(NamedTuple):
    """The number of steps, and of each parameter the mean squares of its gradient: of rows and columns, or where it
    has one axis of every number, the other two are empty then."""

    steps: Array
    rows: Any
    columns: Any
    whole: Any


def scale_by_adafactor(rate: Any) -> optax.GradientTransformation:
    """What `torch.optim.Adafactor` does with its defaults, before weight decay and learning rate (Shazeer and Stern
    2018, https://arxiv.org/abs/1804.04235, algorithms 4 and 5).

    Args:
        rate: the learning rate, which is no more than the reciprocal root of the step's number.
    """

    def init(params: Any) -> Factored:
        def zeros(reduced: int | None) -> Any:
            return jax.tree.map(lambda leaf: jnp.zeros(_shape(leaf.shape, reduced), leaf.dtype), params)

        return Factored(jnp.zeros((), jnp.int32), zeros(1), zeros(0), zeros(None))

    def update(grads: Any, state: Factored, params: Any = None) -> tuple[Any, Factored]:
        steps = state.steps + 1
        number = steps.astype(jnp.result_type(float))
        new = number**DECAY  # the share of the new gradient
        most = jnp.minimum(1, jax.lax.rsqrt(number) / jnp.maximum(rate, jnp.finfo(number.dtype).tiny))

        def moved(old: Array, grad: Array, reduced: int | None) -> Array:
            if (reduced is None) is (grad.ndim > 1):
                return old  # not kept of this one
            squares = jnp.square(grad)
            if reduced is not None:
                squares = squares.mean(_axes(grad.ndim)[reduced], keepdims=True)
            return old + new.astype(old.dtype) * (squares - old)

        def scaled(grad: Array, rows: Array, columns: Array, whole: Array, param: Array) -> Array:
            least = jnp.finfo(grad.dtype).eps
            if grad.ndim < 2:
                square = whole
            else:
                mean = rows.mean(_axes(grad.ndim)[0], keepdims=True)
                square = rows * columns / jnp.maximum(mean, least)
            step = grad * jax.lax.rsqrt(jnp.maximum(square, least**2))
            relative = jnp.maximum(LEAST, _size(param)) * most.astype(grad.dtype)
            return step * relative / jnp.maximum(1, _size(step) / CLIP)

        rows = jax.tree.map(lambda old, grad: moved(old, grad, 1), state.rows, grads)
        columns = jax.tree.map(lambda old, grad: moved(old, grad, 0), state.columns, grads)
        whole = jax.tree.map(lambda old, grad: moved(old, grad, None), state.whole, grads)
        return jax.tree.map(scaled, grads, rows, columns, whole, params), Factored(steps, rows, columns, whole)

    return optax.GradientTransformation(init, update)


def _axes(dimensions: int) -> tuple[int, int]:
    """PyTorch's last two axes among ours: of kernels of convolutions, which it has as OIHW and we as HWIO, the places;
    of all others the last two, whose order makes no difference."""
    return (0, 1) if dimensions == 4 else (dimensions - 2, dimensions - 1)


def _shape(shape: tuple[int, ...], reduced: int | None) -> tuple[int, ...]:
    """Of the mean squares over one of the two axes, or of all of them (None); a single number where these are not kept,
    because checkpoints hold no array without any."""
    if (reduced is None) is (len(shape) > 1):
        return (1,)
    if reduced is None:
        return shape
    axis = _axes(len(shape))[reduced]
    return tuple(1 if place == axis else size for place, size in enumerate(shape))


def _size(array: Array) -> Array:
    """The root mean square."""
    return jnp.sqrt(jnp.square(array).mean())
