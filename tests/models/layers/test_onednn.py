import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxft.models.layers.attention import attend
from jaxft.models.layers.convolution import conv
from jaxft.models.layers.onednn import available, compiler_options, for_onednn

needed = pytest.mark.skipif(not available(), reason="this jaxlib has no oneDNN")


def text(function: object, *arrays: Array) -> str:
    options = compiler_options("cpu")
    return jax.jit(for_onednn(function)).lower(*arrays).compile(compiler_options=options).as_text()


def test_only_programs_for_cpus_have_options() -> None:
    assert compiler_options("gpu") == compiler_options("tpu") == {}
    assert bool(compiler_options("cpu")) == available()


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
    x, kernel = np.ones((2, 8, 8, 16), np.float32), np.ones((3, 3, 1, 16), np.float32)

    def function(x: Array, kernel: Array) -> Array:
        return conv(x, kernel, padding=((1, 1), (1, 1)), groups=16)

    before = jax.jit(function).lower(x, kernel).as_text()
    jax.jit(for_onednn(lambda x: function(x, kernel))).lower(x)
    assert jax.jit(lambda x, kernel: function(x, kernel)).lower(x, kernel).as_text().count("convolution") == (
        before.count("convolution")
    )
