"""A low-rank addition to what a layer computes, which trains while the layer itself is frozen."""

from typing import TypeGuard

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import zeros

from jaxft.models.layers.attention import MultiheadAttention
from jaxft.models.layers.conv import Conv
from jaxft.models.layers.linear import Linear

Adaptable = Conv | Linear | MultiheadAttention


class Lora(nnx.Module):
    """LoRA: `scaling * lora_B(lora_A(dropout(x)))`; Hu et al. 2021, https://arxiv.org/abs/2106.09685.

    As in PEFT, lora_A starts as a layer of PyTorch's does and lora_B from zero, so that nothing is added at first. Of a
    convolution lora_A has its window, stride and padding, and lora_B is 1 x 1; of self-attention the addition is to the
    joint projection of queries, keys and values.

    Args:
        layer: what it is added to; it may be abstract.
        rank: channels between the two.
        scaling: see above; PEFT's is alpha / rank.
        dropout: of the input, in training.
    """

    def __init__(self, layer: Adaptable, *, rank: int, scaling: float, dropout: float, rngs: nnx.Rngs) -> None:
        self.scaling = scaling
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        if isinstance(layer, Conv):
            *_, inputs, outputs = layer.kernel.shape
            self.lora_A: Conv | Linear = Conv(
                inputs,
                rank,
                layer.size,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                bias=False,
                rngs=rngs,
            )
            self.lora_B: Conv | Linear = Conv(rank, outputs, 1, bias=False, init=zeros, rngs=rngs)
            return
        inputs, outputs = kernel_of(layer).shape
        self.lora_A = Linear(inputs, rank, bias=False, rngs=rngs)
        self.lora_B = Linear(rank, outputs, bias=False, init=zeros, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """What is added, in the dtype of `x`."""
        return self.lora_B(self.lora_A(self.dropout(x))) * jnp.asarray(self.scaling, x.dtype)


def kernel_of(layer: Adaptable) -> nnx.Param[Array]:
    """The parameter that the low-rank product is added to."""
    return layer.in_proj_kernel if isinstance(layer, MultiheadAttention) else layer.kernel


def adaptable(layer: nnx.Module) -> TypeGuard[Adaptable]:
    """Whether a layer can have an addition: a linear layer, a convolution without groups, or self-attention."""
    if isinstance(layer, Conv):
        return layer.groups == 1 and not layer.standardized
    return type(layer) in (Linear, MultiheadAttention)
