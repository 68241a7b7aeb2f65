"""Products of narrow numbers whose sums stay wide."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def wide_product(indices: str, x: Array, y: Array) -> Array:
    """`jnp.einsum(indices, x, y)` in float32, or wider where the operands are, without a rounding to their type.

    The gradient is multiplied in the operands' type, as every other product of theirs: only its sums are wide.
    """
    return jnp.einsum(indices, x, y, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))


def _forward(indices: str, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    return wide_product(indices, x, y), (x, y)


def _backward(indices: str, saved: tuple[Array, Array], dz: Array) -> tuple[Array, Array]:
    narrow, pull = jax.vjp(partial(jnp.einsum, indices), *saved)
    dx, dy = pull(dz.astype(narrow.dtype))
    return dx, dy


wide_product.defvjp(_forward, _backward)
