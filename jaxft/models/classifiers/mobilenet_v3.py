"""MobileNetV3 large and small as torchvision builds them.

Howard et al. 2019, https://arxiv.org/abs/1905.02244. BatchNorm's eps is 1e-3 and its momentum 0.01.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from flax import nnx
from jax import Array
from jax.nn.initializers import normal, zeros

from jaxft.models.classifiers import mobilenet_v2
from jaxft.models.classifiers.efficientnet_lite import scaled
from jaxft.models.layers import (
    BatchNorm,
    Linear,
    Sequential,
    SqueezeExcitation,
    flatten,
    hard_sigmoid,
    hard_swish,
    kaiming_normal_fan_out,
)
from jaxft.models.layers.pooling import AdaptiveAveragePool
from jaxft.models.layers.rematerialization import apply_block

unit = partial(mobilenet_v2.unit, norm=partial(BatchNorm, eps=1e-3, momentum=0.01))


class Block(NamedTuple):
    """A row of the paper's tables 1 and 2."""

    size: int
    width: int  # the channels inside
    channels: int  # the channels out
    squeeze: bool  # whether it has squeeze-and-excitation
    activation: Callable[[Array], Array]
    stride: int


LARGE = (
    Block(3, 16, 16, False, nnx.relu, 1),
    Block(3, 64, 24, False, nnx.relu, 2),
    Block(3, 72, 24, False, nnx.relu, 1),
    Block(5, 72, 40, True, nnx.relu, 2),
    Block(5, 120, 40, True, nnx.relu, 1),
    Block(5, 120, 40, True, nnx.relu, 1),
    Block(3, 240, 80, False, hard_swish, 2),
    Block(3, 200, 80, False, hard_swish, 1),
    Block(3, 184, 80, False, hard_swish, 1),
    Block(3, 184, 80, False, hard_swish, 1),
    Block(3, 480, 112, True, hard_swish, 1),
    Block(3, 672, 112, True, hard_swish, 1),
    Block(5, 672, 160, True, hard_swish, 2),
    Block(5, 960, 160, True, hard_swish, 1),
    Block(5, 960, 160, True, hard_swish, 1),
)
SMALL = (
    Block(3, 16, 16, True, nnx.relu, 2),
    Block(3, 72, 24, False, nnx.relu, 2),
    Block(3, 88, 24, False, nnx.relu, 1),
    Block(5, 96, 40, True, hard_swish, 2),
    Block(5, 240, 40, True, hard_swish, 1),
    Block(5, 240, 40, True, hard_swish, 1),
    Block(5, 120, 48, True, hard_swish, 1),
    Block(5, 144, 48, True, hard_swish, 1),
    Block(5, 288, 96, True, hard_swish, 2),
    Block(5, 576, 96, True, hard_swish, 1),
    Block(5, 576, 96, True, hard_swish, 1),
)
STEM = 16


class InvertedResidual(nnx.Module):
    """1x1 up (where the width differs), depthwise, squeeze-and-excitation, 1x1 down, and a shortcut."""

    def __init__(self, inputs: int, row: Block, *, rngs: nnx.Rngs) -> None:
        self.shortcut = row.stride == 1 and inputs == row.channels
        width, activation = row.width, row.activation
        layers: list[Callable[[Array], Array]] = []
        if width != inputs:
            layers.append(unit(inputs, width, 1, activation=activation, rngs=rngs))
        layers.append(unit(width, width, row.size, stride=row.stride, groups=width, activation=activation, rngs=rngs))
        if row.squeeze:
            layers.append(
                SqueezeExcitation(
                    width,
                    scaled(width // 4, 1.0),
                    gate=hard_sigmoid,
                    init=kaiming_normal_fan_out,
                    bias_init=zeros,
                    rngs=rngs,
                )
            )
        layers.append(unit(width, row.channels, 1, rngs=rngs))
        self.block = Sequential(layers)

    def __call__(self, x: Array) -> Array:
        y = self.block(x)
        return x + y if self.shortcut else y


class MobileNetV3(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        rows: the blocks.
        hidden: outputs of the first of the two linear layers.
        dropout: before the last linear layer, in training.
    """

    def __init__(
        self,
        rows: tuple[Block, ...],
        hidden: int,
        num_classes: int = 1000,
        *,
        dropout: float = 0.2,
        rngs: nnx.Rngs,
    ) -> None:
        inputs = STEM
        layers: list[Callable[[Array], Array]] = [unit(3, inputs, stride=2, activation=hard_swish, rngs=rngs)]
        for row in rows:
            layers.append(InvertedResidual(inputs, row, rngs=rngs))
            inputs = row.channels
        layers.append(unit(inputs, 6 * inputs, 1, activation=hard_swish, rngs=rngs))
        self.features_ = Sequential(layers)
        self.avgpool = AdaptiveAveragePool()
        linear = partial(Linear, init=normal(0.01), bias_init=zeros, rngs=rngs)
        self.classifier = Sequential(
            [linear(6 * inputs, hidden), hard_swish, nnx.Dropout(dropout, rngs=rngs), linear(hidden, num_classes)]
        )

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps = {}
        for index, layer in enumerate(self.features_):
            x = maps[f"features.{index}"] = apply_block(layer, x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, hidden]`, the input of dropout and the last linear layer."""
        x = self._pooled(x)
        for layer in self.classifier[:-2]:
            x = layer(x)
        return x

    def _pooled(self, x: Array) -> Array:
        return flatten(self.avgpool(self.stages(x)[f"features.{len(self.features_) - 1}"]))

    def __call__(self, x: Array) -> Array:
        return self.classifier(self._pooled(x))


def mobilenet_v3_large(num_classes: int = 1000, *, dropout: float = 0.2, rngs: nnx.Rngs) -> MobileNetV3:
    return MobileNetV3(LARGE, 1280, num_classes, dropout=dropout, rngs=rngs)


def mobilenet_v3_small(num_classes: int = 1000, *, dropout: float = 0.2, rngs: nnx.Rngs) -> MobileNetV3:
    return MobileNetV3(SMALL, 1024, num_classes, dropout=dropout, rngs=rngs)


PRESETS = (mobilenet_v3_large, mobilenet_v3_small)
