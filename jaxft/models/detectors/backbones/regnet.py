"""RegNetX as a detector's backbone, under the names of MMDetection's class, which are those of its ResNet.

Radosavovic et al. 2020, https://arxiv.org/abs/2003.13678: the widths of all blocks are a rounded linear function of
their depth. (`jaxft.models.classifiers.regnet` is the classifier under torchvision's names.)
"""

from itertools import groupby
from math import log

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.detectors.backbones.resnet import BATCH_NORM, convolution, shortcut
from jaxft.models.detectors.conv_module import norm_name, normalization
from jaxft.models.detectors.types import Norm
from jaxft.models.layers import Sequential

# The first width, its slope over the blocks, the ratio of neighboring stages' widths, width of a group, blocks.
ARCHITECTURES = {
    "regnetx_400mf": (24, 24.48, 2.54, 16, 22),
    "regnetx_800mf": (56, 35.73, 2.28, 16, 16),
    "regnetx_1.6gf": (80, 34.01, 2.25, 24, 18),
    "regnetx_3.2gf": (88, 26.31, 2.25, 48, 25),
    "regnetx_4.0gf": (96, 38.65, 2.43, 40, 23),
    "regnetx_6.4gf": (184, 60.83, 2.07, 56, 17),
    "regnetx_8.0gf": (80, 49.56, 2.88, 120, 23),
    "regnetx_12gf": (168, 73.36, 2.37, 112, 19),
}


def stages_of(first: int, slope: float, ratio: float, group: int, depth: int) -> list[tuple[int, int]]:
    """Width and number of blocks of each stage: widths are rounded to powers of `ratio`, then to 8 and to groups."""
    widths = []
    for block in range(depth):
        power = round(log((first + slope * block) / first) / log(ratio))
        widths.append(round(first * ratio**power / 8) * 8)
    return [
        (round(width / min(group, width)) * min(group, width), len(list(blocks))) for width, blocks in groupby(widths)
    ]


class Block(nnx.Module):
    """1x1, grouped 3x3 (strided), 1x1, all of one width, and a shortcut."""

    def __init__(
        self, inputs: int, width: int, *, stride: int, dilation: int, group: int, norm: Norm, rngs: nnx.Rngs
    ) -> None:
        self.name = norm_name(norm)
        self.conv1 = convolution(inputs, width, 1, rngs=rngs)
        self.conv2 = convolution(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, groups=width // group, rngs=rngs
        )
        self.conv3 = convolution(width, width, 1, rngs=rngs)
        for number in (1, 2, 3):
            setattr(self, f"{self.name}{number}", normalization(norm, width))
        last = getattr(self, f"{self.name}3").scale
        last.set_value(jnp.zeros_like(last[...]))
        same = stride == 1 and inputs == width
        self.downsample = None if same else shortcut(inputs, width, stride, False, norm, rngs)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(getattr(self, f"{self.name}1")(self.conv1(x)))
        y = nnx.relu(getattr(self, f"{self.name}2")(self.conv2(y)))
        y = getattr(self, f"{self.name}3")(self.conv3(y))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class RegNet(nnx.Module):
    """Images `[N, H, W, 3]` -> one map `[N, H / s, W / s, C]` for each of `out_indices`, s = 4, 8, 16, 32.

    Args:
        arch: one of `ARCHITECTURES`.
        stem_channels: of the first convolution.
        strides, dilations: of each stage.
        norm_cfg: of every convolution.
    """

    def __init__(
        self,
        arch: str,
        *,
        in_channels: int = 3,
        stem_channels: int = 32,
        strides: tuple[int, ...] = (2, 2, 2, 2),
        dilations: tuple[int, ...] = (1, 1, 1, 1),
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        norm_cfg: Norm = BATCH_NORM,
        rngs: nnx.Rngs,
    ) -> None:
        group = ARCHITECTURES[arch][3]
        self.out_indices, self.name = out_indices, norm_name(norm_cfg)
        self.conv1 = convolution(in_channels, stem_channels, 3, stride=2, padding=1, rngs=rngs)
        setattr(self, f"{self.name}1", normalization(norm_cfg, stem_channels))
        inputs, stages = stem_channels, stages_of(*ARCHITECTURES[arch])
        self.num_stages = len(stages)
        for stage, (width, count) in enumerate(stages):
            blocks = []
            for index in range(count):
                stride = strides[stage] if index == 0 else 1
                shape = {"stride": stride, "dilation": dilations[stage], "group": min(group, width)}
                blocks.append(Block(inputs, width, norm=norm_cfg, rngs=rngs, **shape))
                inputs = width
            setattr(self, f"layer{stage + 1}", Sequential(blocks))

    def __call__(self, x: Array) -> tuple[Array, ...]:
        """The maps of the stages in `out_indices`, finest first."""
        x = nnx.relu(getattr(self, f"{self.name}1")(self.conv1(x)))
        maps = []
        for stage in range(self.num_stages):
            x = getattr(self, f"layer{stage + 1}")(x)
            maps.append(x)
        return tuple(maps[index] for index in self.out_indices)
