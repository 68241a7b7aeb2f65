"""The layers of a head that puts out masks; He et al. 2017, https://arxiv.org/abs/1703.06870."""

import math
from functools import partial

import jax
from flax import nnx
from jax import Array

from jaxft.models.detectors.conv_module import ConvModule, zeros
from jaxft.models.detectors.roi.bbox_head import convolved
from jaxft.models.detectors.types import Norm
from jaxft.models.layers import Conv, ConvTranspose, Sequential, kaiming_normal_fan_out


class FCNMaskHead(nnx.Module):
    """Convolutions on a region's map, doubled in size, and a mask for each class.

    Args:
        in_channels, num_classes: of the regions' maps; without background.
        num_convs, conv_kernel_size, conv_out_channels, norm_cfg: of the convolutions.
        class_agnostic: one mask for all classes.
        upsample: `deconv` or None.
        loss_weight: of the cross-entropy of pixels.
        background_first: output 0 is that of the background, unused (torchvision).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_convs: int = 4,
        conv_kernel_size: int = 3,
        conv_out_channels: int = 256,
        class_agnostic: bool = False,
        upsample: str | None = "deconv",
        norm_cfg: Norm | None = None,
        loss_weight: float = 1.0,
        background_first: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        module = partial(ConvModule, padding=(conv_kernel_size - 1) // 2, norm_cfg=norm_cfg, rngs=rngs)
        inputs = [in_channels] + [conv_out_channels] * (num_convs - 1)
        self.convs = Sequential(
            [module(channels, conv_out_channels, conv_kernel_size) for channels in inputs[:num_convs]]
        )
        channels = conv_out_channels if num_convs else in_channels
        grown = partial(ConvTranspose, channels, conv_out_channels, 2, init=deconv_normal, rngs=rngs)
        self.upsample = grown() if upsample == "deconv" else None
        channels = conv_out_channels if upsample == "deconv" else channels
        outputs = 1 if class_agnostic else num_classes + background_first
        self.conv_logits = Conv(
            channels, outputs, 1, wide=True, init=kaiming_normal_fan_out, bias_init=zeros, rngs=rngs
        )
        self.class_agnostic, self.loss_weight, self.background_first = class_agnostic, loss_weight, background_first

    def __call__(self, x: Array, used: Array) -> Array:
        """`[R, h, w, C]` -> logits `[R, 2h, 2w, masks]`: one for each class, or one for all; `used` as above."""
        x = convolved(self.convs, x, used)
        if self.upsample is not None:
            x = nnx.relu(self.upsample(x))
        logits = self.conv_logits(x)
        return logits[..., 1:] if self.background_first and not self.class_agnostic else logits


def deconv_normal(key: Array, shape: tuple[int, ...]) -> Array:
    """`kaiming_normal_(mode="fan_out")` of a transposed convolution, which counts its inputs as what goes out."""
    return jax.random.normal(key, shape) * math.sqrt(2 / math.prod(shape[:3]))
