from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax._src import compilation_cache

from jaxft.models.layers.attention import attend
from jaxft.models.layers.convolution import conv
from jaxft.models.layers.onednn import available, compiled, for_onednn

needed = pytest.mark.skipif(not available(), reason="this jaxlib has no oneDNN")


def text(function: Callable[..., Any], *arrays: Array) -> str:
    found = compiled(jax.jit(for_onednn(function)).lower(*arrays), "cpu").as_text()
    assert found is not None
    return found


def convolution(x: Array, kernel: Array) -> Array:
    return conv(x, kernel, padding=((1, 1), (1, 1)), groups=16 // kernel.shape[2])


@needed
def test_a_program_is_not_written_to_the_cache() -> None:
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 16))
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            written: list[str] = []
            patch.setattr(compilation_cache, "put_executable_and_time", lambda *args: written.append(args[1]))
            compiled(jax.jit(for_onednn(convolution)).lower(x, kernel), "cpu")
            assert (written, getattr(jax.config, name)) == ([], 0.0)
            jax.jit(lambda x: 7 * x + 3).lower(x).compile()
            assert len(written) == 1
    finally:
        jax.config.update(name, before)


@needed
@pytest.mark.parametrize("groups", [1, 4, 32])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_part_of_a_convolution_is_one_of_onednn(groups: int, stride: int) -> None:
    x, kernel = jnp.ones((4, 14, 14, 32)), jnp.ones((5, 5, 32 // groups, 32))

    def gradients(x: Array, kernel: Array) -> tuple[Array, Array]:
        def function(x: Array, kernel: Array) -> Array:
            strides = (stride, stride)
            return conv(x, kernel, strides=strides, padding=((2, 2), (2, 2)), groups=groups)

        y, pull = jax.vjp(function, x, kernel)
        return pull(jnp.sin(y))

    found = text(gradients, x, kernel)
    assert " convolution(" not in found
    # the output, the kernel's gradient, and a part of the input's gradient for each kind of pixel
    assert found.count('"__onednn$convolution"') == 2 + stride**2


@needed
def test_a_bias_of_attention_is_no_part_of_the_product() -> None:
    heads, bias = jnp.ones((8, 16, 2, 8)), jnp.ones((1, 2, 16, 16))
    found = text(lambda q, bias: attend(q, q, q, bias=bias), heads, bias)
    assert "BINARY_ADD" not in found
    assert "BIAS" not in found


def test_a_program_of_anybody_else_stays_as_it_was() -> None:
    x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 1, 16))
    before = jax.jit(convolution).lower(x, kernel).as_text()
    jax.jit(for_onednn(convolution)).lower(x, kernel)
    assert jax.jit(lambda x, kernel: convolution(x, kernel)).lower(x, kernel).as_text().count("\n") == before.count(
        "\n"
    )


@needed
def test_what_follows_a_convolution_is_not_taken_for_silu() -> None:
    """jaxlib 0.12 takes a convolution times a sigmoid for SiLU of the convolution, whatever the sigmoid is of."""
    random = np.random.default_rng(0)
    x, gate, kernel, after = (
        jnp.asarray(random.standard_normal(shape), jnp.float32)
        for shape in ((8, 4, 4, 16), (8, 4, 4, 24), (1, 1, 16, 24), (1, 1, 24, 16))
    )

    def gated(x: jax.Array, gate: jax.Array) -> jax.Array:
        return (conv(x, kernel) * jax.nn.sigmoid(gate)).sum()

    def silu(x: jax.Array, gate: jax.Array) -> jax.Array:
        return (conv(jax.nn.silu(conv(x, kernel)), after) * x).sum()

    for function in (gated, silu):
        both = jax.grad(function, argnums=(0, 1))
        ours = compiled(jax.jit(for_onednn(both)).lower(x, gate), "cpu")(x, gate)
        for one, other in zip(ours, jax.jit(both)(x, gate), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        values = compiled(jax.jit(for_onednn(function)).lower(x, gate), "cpu")(x, gate), function(x, gate)
        np.testing.assert_allclose(*values, rtol=1e-4)
