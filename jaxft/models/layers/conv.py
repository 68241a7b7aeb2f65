"""Convolution layers on `[N, H, W, C]`; see `jaxft.models.layers.convolution` for how they are computed."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.layers.convolution import conv
from jaxft.models.layers.initializers import Init, fan_in_uniform
from jaxft.models.layers.shapes import IntOrPair, along_channels, pair


class Conv(nnx.Module):
    """2-D convolution, `torch.nn.Conv2d` on `[N, H, W, C]`; see `layers/convolution.py` for how it is computed.

    Args:
        inputs, outputs: channels.
        size, stride, dilation: pixels, one number or (height, width).
        padding: pixels at each side, or `"same"`: TensorFlow's, output = ceil(input / stride), odd pixels at the end.
        groups: as in PyTorch; `groups == inputs` is a depthwise convolution.
        wide: puts out float32 (or wider) whatever the dtype of the images, without a rounding to it: what a detector
            reads boxes and scores from.
        init: draws the kernel `[kh, kw, inputs/groups, outputs]` from a key; PyTorch's default where it is None.
        bias_init: draws the bias `[outputs]`, likewise.

    Raises:
        ValueError: it would have no channels.

    Where `standardized` is set afterwards, each output's kernel is used less its mean and divided by its deviation
    (weight standardization; Qiao et al. 2019, https://arxiv.org/abs/1903.10520).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: IntOrPair,
        *,
        stride: IntOrPair = 1,
        padding: IntOrPair | str = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        wide: bool = False,
        init: Init | None = None,
        bias_init: Init | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        if min(inputs, outputs) < 1:
            raise ValueError(f"a convolution has {inputs} input channels and {outputs} output channels, not 1 at least")
        self.size, self.stride, self.dilation, self.groups = pair(size), pair(stride), pair(dilation), groups
        self.padding = padding if isinstance(padding, str) else pair(padding)
        self.standardized, self.wide = False, wide
        shape = (*self.size, inputs // groups, outputs)
        default = partial(fan_in_uniform, fan_in=math.prod(shape[:3]))
        self.kernel = nnx.Param((init or default)(rngs.params(), shape))
        self.bias = nnx.Param((bias_init or default)(rngs.params(), (outputs,))) if bias else None
        self.lora: nnx.Module | None = None  # see `layers/low_rank.py`

    def _pads(self, image: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        if isinstance(self.padding, str):
            vertical, horizontal = jax.lax.padtype_to_pads(
                image, [d * (k - 1) + 1 for k, d in zip(self.size, self.dilation, strict=True)], self.stride, "SAME"
            )
            return vertical, horizontal
        return (self.padding[0], self.padding[0]), (self.padding[1], self.padding[1])

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, inputs]` -> `[N, H', W', outputs]`, in the dtype of `x`, or `wide`."""
        kernel = self.kernel[...]
        y = conv(
            x,
            standardize(kernel) if self.standardized else kernel,
            strides=self.stride,
            padding=self._pads((x.shape[1], x.shape[2])),
            dilation=self.dilation,
            groups=self.groups,
            dtype=jnp.promote_types(x.dtype, jnp.float32) if self.wide else None,
        )
        y = y if self.bias is None else y + along_channels(self.bias[...].astype(y.dtype), y)
        return y if self.lora is None else y + self.lora(x).astype(y.dtype)


def standardize(kernel: Array) -> Array:
    """A kernel `[kh, kw, in, out]` with mean 0 and (unbiased) deviation 1 for each output, as mmcv's `ConvWS2d`."""
    centered = kernel - kernel.mean((0, 1, 2), keepdims=True)
    return centered / (jnp.std(kernel, (0, 1, 2), ddof=1, keepdims=True) + 1e-5)


class ConvTranspose(nnx.Module):
    """`torch.nn.ConvTranspose2d` whose windows touch and do not overlap: stride is the size, no padding."""

    def __init__(self, inputs: int, outputs: int, size: int, *, init: Init | None = None, rngs: nnx.Rngs) -> None:
        shape = (size, size, inputs, outputs)
        default = partial(fan_in_uniform, fan_in=size * size * outputs)
        self.kernel = nnx.Param((init or default)(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(outputs) if init else default(rngs.params(), (outputs,)))

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, inputs]` -> `[N, size * H, size * W, outputs]`."""
        kernel, (n, height, width, _) = self.kernel[...], x.shape
        y = jnp.einsum("nhwi,abio->nhawbo", x, kernel)
        y = y.reshape(n, height * kernel.shape[0], width * kernel.shape[1], kernel.shape[3])
        return y + along_channels(self.bias[...].astype(y.dtype), y)
