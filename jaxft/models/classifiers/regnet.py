"""RegNetX and RegNetY (with squeeze-and-excitation) as torchvision builds them.

Radosavovic et al. 2020, https://arxiv.org/abs/2003.13678.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import NamedTuple

from flax import nnx
from jax import Array
from jax.nn.initializers import normal, zeros

from jaxft.models.classifiers.mobilenet_v2 import unit
from jaxft.models.layers import Linear, Named, SqueezeExcitation, flatten, kaiming_normal_fan_out
from jaxft.models.layers.pooling import AdaptiveAveragePool

STEM = 32


class Stage(NamedTuple):
    """A run of blocks of one width."""

    width: int
    depth: int
    group: int  # the channels in a group of the 3x3 convolution


def design(depth: int, start: int, slope: float, factor: float, group: int) -> tuple[Stage, ...]:
    """The stages that the paper's rule makes of a few numbers (section 3.3).

    Block i would have start + slope * i channels. That is taken to the nearest start * factor^k, and then to a multiple
    of 8; blocks of equal width are a stage. A stage of less than a group's width is one group; others go to a multiple.

    Args:
        depth: the blocks of all stages.
        start, slope, factor: w_0, w_a and w_m.
        group: the channels in a group of the 3x3 convolutions.
    """
    powers = (round(math.log((start + slope * index) / start) / math.log(factor)) for index in range(depth))
    widths = (8 * round(start * factor**power / 8) for power in powers)
    return tuple(
        Stage(multiple(width, min(group, width)), len(list(blocks)), min(group, width))
        for width, blocks in groupby(widths)
    )


def multiple(width: int, group: int) -> int:
    """The width as a multiple of the group, the nearest that is not more than 10 % down, and not 0."""
    rounded = max(group, (2 * width + group) // (2 * group) * group)
    return rounded + group if rounded < 0.9 * width else rounded


class ResBottleneckBlock(nnx.Module):
    """1x1, 3x3 in groups (and squeeze-and-excitation), 1x1, all of one width, and a shortcut."""

    def __init__(self, inputs: int, stage: Stage, *, stride: int, squeeze: float | None, rngs: nnx.Rngs) -> None:
        width, group = stage.width, stage.group
        active = partial(unit, activation=nnx.relu, rngs=rngs)
        same = stride == 1 and inputs == width
        self.proj = None if same else unit(inputs, width, 1, stride=stride, rngs=rngs)
        layers: dict[str, Callable[[Array], Array]] = {
            "a": active(inputs, width, 1),
            "b": active(width, width, stride=stride, groups=width // group),
        }
        if squeeze is not None:
            layers["se"] = SqueezeExcitation(width, round(squeeze * inputs), init=kaiming_normal_fan_out, rngs=rngs)
        self.f = Named(layers | {"c": unit(width, width, 1, rngs=rngs)})

    def __call__(self, x: Array) -> Array:
        return nnx.relu((x if self.proj is None else self.proj(x)) + self.f(x))


class RegNet(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        rows: the stages, as `design` makes them.
        squeeze: channels of a block's squeeze-and-excitation for each of the block's inputs; None where it has none.
    """

    def __init__(
        self,
        rows: tuple[Stage, ...],
        num_classes: int = 1000,
        *,
        squeeze: float | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = unit(3, STEM, stride=2, activation=nnx.relu, rngs=rngs)
        inputs = STEM
        trunk = {}
        for number, stage in enumerate(rows, 1):
            blocks = {}
            for index in range(stage.depth):
                stride = 2 if index == 0 else 1
                block = ResBottleneckBlock(inputs, stage, stride=stride, squeeze=squeeze, rngs=rngs)
                blocks[f"block{number}-{index}"] = block
                inputs = stage.width
            trunk[f"block{number}"] = Named(blocks)
        self.trunk_output = Named(trunk)
        self.avgpool = AdaptiveAveragePool()
        self.fc = Linear(inputs, num_classes, init=normal(0.01), bias_init=zeros, rngs=rngs)

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        x = self.stem(x)
        maps = {"stem": x}
        for name in self.trunk_output.order:
            x = maps[f"trunk_output.{name}"] = getattr(self.trunk_output, name)(x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, C]`, the pooled input of the last linear layer."""
        return flatten(self.avgpool(self.trunk_output(self.stem(x))))

    def __call__(self, x: Array) -> Array:
        return self.fc(self.features(x))


def regnet_y_400mf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(16, 48, 27.89, 2.09, 8), num_classes, squeeze=0.25, rngs=rngs)


def regnet_y_800mf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(14, 56, 38.84, 2.4, 16), num_classes, squeeze=0.25, rngs=rngs)


def regnet_y_1_6gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(27, 48, 20.71, 2.65, 24), num_classes, squeeze=0.25, rngs=rngs)


def regnet_y_3_2gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(21, 80, 42.63, 2.66, 24), num_classes, squeeze=0.25, rngs=rngs)


def regnet_y_8gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(17, 192, 76.82, 2.19, 56), num_classes, squeeze=0.25, rngs=rngs)


def regnet_y_16gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(18, 200, 106.23, 2.48, 112), num_classes, squeeze=0.25, rngs=rngs)


def regnet_y_32gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(20, 232, 115.89, 2.53, 232), num_classes, squeeze=0.25, rngs=rngs)


def regnet_y_128gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(27, 456, 160.83, 2.52, 264), num_classes, squeeze=0.25, rngs=rngs)


def regnet_x_400mf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(22, 24, 24.48, 2.54, 16), num_classes, rngs=rngs)


def regnet_x_800mf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(16, 56, 35.73, 2.28, 16), num_classes, rngs=rngs)


def regnet_x_1_6gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(18, 80, 34.01, 2.25, 24), num_classes, rngs=rngs)


def regnet_x_3_2gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(25, 88, 26.31, 2.25, 48), num_classes, rngs=rngs)


def regnet_x_8gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(23, 80, 49.56, 2.88, 120), num_classes, rngs=rngs)


def regnet_x_16gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(22, 216, 55.59, 2.1, 128), num_classes, rngs=rngs)


def regnet_x_32gf(num_classes: int = 1000, *, rngs: nnx.Rngs) -> RegNet:
    return RegNet(design(23, 320, 69.86, 2.0, 168), num_classes, rngs=rngs)


PRESETS = (
    regnet_y_400mf,
    regnet_y_800mf,
    regnet_y_1_6gf,
    regnet_y_3_2gf,
    regnet_y_8gf,
    regnet_y_16gf,
    regnet_y_32gf,
    regnet_y_128gf,
    regnet_x_400mf,
    regnet_x_800mf,
    regnet_x_1_6gf,
    regnet_x_3_2gf,
    regnet_x_8gf,
    regnet_x_16gf,
    regnet_x_32gf,
)
