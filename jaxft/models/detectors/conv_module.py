"""The layers that MMDetection builds its parts from: a convolution with its normalization and activation."""

from functools import partial
from math import log

import jax
from flax import nnx
from jax import Array

from jaxft.models.detectors.types import Norm
from jaxft.models.layers import (
    BatchNorm,
    Conv,
    FrozenBatchNorm,
    GroupNorm,
    Init,
    IntOrPair,
    Sequential,
    kaiming_normal_fan_out,
)

normal_001 = jax.nn.initializers.normal(0.01)  # what MMDetection draws the kernels of dense heads from
xavier_uniform = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zeros = jax.nn.initializers.zeros


def bias_for(probability: float) -> Init:
    """Draws biases with which a sigmoid puts out `probability`: the `bias_prob` of MMDetection."""
    return jax.nn.initializers.constant(-log((1 - probability) / probability))


def normalization(norm: Norm, channels: int) -> BatchNorm | FrozenBatchNorm | GroupNorm:
    """The layer that `norm` describes."""
    if norm.type == "GN":
        return GroupNorm(norm.num_groups, channels, eps=norm.eps)
    if norm.type == "FrozenBN":
        return FrozenBatchNorm(channels, eps=norm.eps)
    return BatchNorm(channels, eps=norm.eps, momentum=norm.momentum)


def norm_name(norm: Norm) -> str:
    """What mmcv calls the attribute of such a layer: `bn` or `gn`."""
    return "gn" if norm.type == "GN" else "bn"


class ConvModule(nnx.Module):
    """`mmcv.cnn.ConvModule`: `conv`, then `bn` or `gn`, then ReLU.

    Args:
        norm_cfg: None for no normalization.
        activation: whether ReLU follows.
        bias: None: the convolution has one where there is no normalization.
        init: draws the kernel; kaiming's normal where it is None. Biases are 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: IntOrPair,
        *,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        norm_cfg: Norm | None = None,
        activation: bool = True,
        bias: bool | None = None,
        init: Init | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        with_bias = norm_cfg is None if bias is None else bias
        layer = partial(Conv, stride=stride, padding=padding, bias=with_bias, bias_init=zeros, rngs=rngs)
        self.conv = layer(inputs, outputs, size, init=init or kaiming_normal_fan_out)
        self.name = None if norm_cfg is None else norm_name(norm_cfg)
        if norm_cfg is not None:
            setattr(self, norm_name(norm_cfg), normalization(norm_cfg, outputs))
        self.activation = activation

    def __call__(self, x: Array, used: Array | None = None) -> Array:
        """`[N, H, W, inputs]` -> `[N, H', W', outputs]`; `used` as of `BatchNorm`."""
        x = self.conv(x)
        if self.name is not None:
            norm = getattr(self, self.name)
            x = norm(x, used) if isinstance(norm, BatchNorm) else norm(x)
        return nnx.relu(x) if self.activation else x


def stack(
    inputs: int, channels: int, count: int, norm_cfg: Norm | None, *, bias: bool | None = None, rngs: nnx.Rngs
) -> Sequential:
    """`count` 3x3 convolutions with normalization and ReLU, at the paths `0.conv`, `1.conv`, ..."""
    module = partial(ConvModule, padding=1, norm_cfg=norm_cfg, bias=bias, init=normal_001, rngs=rngs)
    return Sequential([module(inputs if index == 0 else channels, channels, 3) for index in range(count)])
