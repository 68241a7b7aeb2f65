"""Attention in JAX, forward and backward, in two forms."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.batches import queries
from benchmarks.our_steps import Step, finish
from jaxft.training.step import Compiled

Attention = Callable[[Array, Array, Array], Array]


def plain(**size: int) -> Step:
    """softmax(q k' / sqrt(width)) v by products."""

    def attention(q: Array, k: Array, v: Array) -> Array:
        scores = jnp.einsum("nqhd,nkhd->nhqk", q / np.float32(np.sqrt(q.shape[-1])), k)
        return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)

    return prepared(attention, size)


def library(**size: int) -> Step:
    """`jax.nn.dot_product_attention`."""
    return prepared(jax.nn.dot_product_attention, size)


def prepared(attention: Attention, size: dict[str, int]) -> Step:
    """The output and the three gradients."""

    def run(_: None, arrays: dict[str, Array]) -> Any:
        y, pull = jax.vjp(attention, *(arrays[name] for name in "qkv"))
        return y, pull(y)

    step = Compiled(run)
    arrays = {name: jnp.asarray(array) for name, array in zip("qkv", queries(**size), strict=True)}
    return lambda: finish(step(None, arrays))
