"""Feature maps in another size."""

import jax.numpy as jnp
from jax import Array


def nearest(x: Array, size: tuple[int, ...]) -> Array:
    """`interpolate(mode="nearest")` of `[N, h, w, C]` to `[N, *size, C]`: pixel i is taken from floor(i * h / H)."""
    for axis, length in ((1, size[0]), (2, size[1])):
        factor, rest = divmod(length, x.shape[axis])
        if rest == 0:
            x = jnp.repeat(x, factor, axis)
        else:
            x = jnp.take(x, jnp.arange(length) * x.shape[axis] // length, axis)
    return x
