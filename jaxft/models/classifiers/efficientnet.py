"""EfficientNet B0 to B7 and EfficientNetV2 S, M and L as torchvision builds them.

Tan and Le 2019, https://arxiv.org/abs/1905.11946; Tan and Le 2021, https://arxiv.org/abs/2104.00298. BatchNorm's eps
and momentum differ within the family, by where the first weights came from.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from flax import nnx
from jax import Array
from jax.nn.initializers import zeros

from jaxft.models.classifiers.efficientnet_lite import scaled
from jaxft.models.classifiers.mobilenet_v2 import unit
from jaxft.models.layers import (
    BatchNorm,
    DropPath,
    Linear,
    Sequential,
    SqueezeExcitation,
    flatten,
    kaiming_normal_fan_out,
)
from jaxft.models.layers.pooling import AdaptiveAveragePool
from jaxft.models.layers.rematerialization import apply_block

Norm = Callable[[int], BatchNorm]


class Stage(NamedTuple):
    """A run of blocks of one kind; a row of the papers' tables."""

    expansion: int
    size: int
    stride: int  # of the first block
    channels: int
    repeats: int
    fused: bool = False  # whether one convolution does the work of the first two


B0 = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
V2_S = (
    Stage(1, 3, 1, 24, 2, fused=True),
    Stage(4, 3, 2, 48, 4, fused=True),
    Stage(4, 3, 2, 64, 4, fused=True),
    Stage(4, 3, 2, 128, 6),
    Stage(6, 3, 1, 160, 9),
    Stage(6, 3, 2, 256, 15),
)
V2_M = (
    Stage(1, 3, 1, 24, 3, fused=True),
    Stage(4, 3, 2, 48, 5, fused=True),
    Stage(4, 3, 2, 80, 5, fused=True),
    Stage(4, 3, 2, 160, 7),
    Stage(6, 3, 1, 176, 14),
    Stage(6, 3, 2, 304, 18),
    Stage(6, 3, 1, 512, 5),
)
V2_L = (
    Stage(1, 3, 1, 32, 4, fused=True),
    Stage(4, 3, 2, 64, 7, fused=True),
    Stage(4, 3, 2, 96, 7, fused=True),
    Stage(4, 3, 2, 192, 10),
    Stage(6, 3, 1, 224, 19),
    Stage(6, 3, 2, 384, 25),
    Stage(6, 3, 1, 640, 7),
)


def uniform_by_outputs(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform in +-1/sqrt(outputs) for a linear kernel `[inputs, outputs]`."""
    bound = 1 / math.sqrt(shape[1])
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class MBConv(nnx.Module):
    """Up, across and down again, squeezed where it is not fused, and a shortcut where the shape stays."""

    def __init__(self, inputs: int, stage: Stage, *, stride: int, drop_path: float, norm: Norm, rngs: nnx.Rngs) -> None:
        build = fused if stage.fused else depthwise
        self.block = Sequential(build(inputs, stage, stride=stride, norm=norm, rngs=rngs))
        same = stride == 1 and inputs == stage.channels
        self.stochastic_depth = DropPath(drop_path, rngs=rngs) if same else None

    def __call__(self, x: Array) -> Array:
        y = self.block(x)
        return y if self.stochastic_depth is None else x + self.stochastic_depth(y)


def depthwise(inputs: int, stage: Stage, *, stride: int, norm: Norm, rngs: nnx.Rngs) -> list[nnx.Module]:
    """The layers of a block with a depthwise convolution: 1x1 up, depthwise, squeeze-and-excitation, 1x1 down."""
    width, active = inputs * stage.expansion, partial(unit, norm=norm, activation=nnx.silu, rngs=rngs)
    return [
        *([active(inputs, width, 1)] if stage.expansion > 1 else []),
        active(width, width, stage.size, stride=stride, groups=width),
        SqueezeExcitation(
            width, max(1, inputs // 4), activation=nnx.silu, init=kaiming_normal_fan_out, bias_init=zeros, rngs=rngs
        ),
        unit(width, stage.channels, 1, norm=norm, rngs=rngs),
    ]


def fused(inputs: int, stage: Stage, *, stride: int, norm: Norm, rngs: nnx.Rngs) -> list[nnx.Module]:
    """The layers of a block with one full convolution: up, and 1x1 down; where it does not expand, that one alone."""
    width, active = inputs * stage.expansion, partial(unit, norm=norm, activation=nnx.silu, rngs=rngs)
    if stage.expansion == 1:
        return [active(inputs, stage.channels, stage.size, stride=stride)]
    return [active(inputs, width, stage.size, stride=stride), unit(width, stage.channels, 1, norm=norm, rngs=rngs)]


class EfficientNet(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        rows: the stages.
        stem: channels of the first convolution.
        head: channels of the last one.
        dropout: before the last linear layer, in training.
        drop_path: stochastic depth, in training; it grows linearly from 0 at the first block and would reach this one
            after the last.
        norm: makes the BatchNorm of a number of channels.
    """

    def __init__(
        self,
        rows: tuple[Stage, ...],
        num_classes: int = 1000,
        *,
        stem: int,
        head: int,
        dropout: float,
        drop_path: float = 0.2,
        norm: Norm = BatchNorm,
        rngs: nnx.Rngs,
    ) -> None:
        active = partial(unit, norm=norm, activation=nnx.silu, rngs=rngs)
        layers, inputs = [active(3, stem, stride=2)], stem
        done, count = 0, sum(stage.repeats for stage in rows)
        for stage in rows:
            blocks = []
            for index in range(stage.repeats):
                stride, rate = stage.stride if index == 0 else 1, drop_path * done / count
                blocks.append(MBConv(inputs, stage, stride=stride, drop_path=rate, norm=norm, rngs=rngs))
                inputs, done = stage.channels, done + 1
            layers.append(Sequential(blocks))
        layers.append(active(inputs, head, 1))
        self.features_ = Sequential(layers)
        self.avgpool = AdaptiveAveragePool()
        self.classifier = Sequential(
            [
                nnx.Dropout(dropout, rngs=rngs),
                Linear(head, num_classes, init=uniform_by_outputs, bias_init=zeros, rngs=rngs),
            ]
        )

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps = {}
        for index, layer in enumerate(self.features_):
            x = maps[f"features.{index}"] = apply_block(layer, x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, head]`, the pooled input of dropout and the last linear layer."""
        return flatten(self.avgpool(self.stages(x)[f"features.{len(self.features_) - 1}"]))

    def __call__(self, x: Array) -> Array:
        return self.classifier(self.features(x))


def compound(
    width: float,
    depth: float,
    num_classes: int,
    *,
    dropout: float,
    drop_path: float,
    norm: Norm = BatchNorm,
    rngs: nnx.Rngs,
) -> EfficientNet:
    """B0 with its channels scaled by `width` and its repeats by `depth`."""
    rows = tuple(
        stage._replace(channels=scaled(stage.channels, width), repeats=math.ceil(stage.repeats * depth)) for stage in B0
    )
    return EfficientNet(
        rows,
        num_classes,
        stem=scaled(32, width),
        head=4 * rows[-1].channels,
        dropout=dropout,
        drop_path=drop_path,
        norm=norm,
        rngs=rngs,
    )


ported = partial(BatchNorm, eps=1e-3, momentum=0.01)  # of weights that came from TensorFlow
second = partial(BatchNorm, eps=1e-3)  # of the second version


def efficientnet_b0(
    num_classes: int = 1000, *, dropout: float = 0.2, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return compound(1.0, 1.0, num_classes, dropout=dropout, drop_path=drop_path, rngs=rngs)


def efficientnet_b1(
    num_classes: int = 1000, *, dropout: float = 0.2, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return compound(1.0, 1.1, num_classes, dropout=dropout, drop_path=drop_path, rngs=rngs)


def efficientnet_b2(
    num_classes: int = 1000, *, dropout: float = 0.3, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return compound(1.1, 1.2, num_classes, dropout=dropout, drop_path=drop_path, rngs=rngs)


def efficientnet_b3(
    num_classes: int = 1000, *, dropout: float = 0.3, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return compound(1.2, 1.4, num_classes, dropout=dropout, drop_path=drop_path, rngs=rngs)


def efficientnet_b4(
    num_classes: int = 1000, *, dropout: float = 0.4, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return compound(1.4, 1.8, num_classes, dropout=dropout, drop_path=drop_path, rngs=rngs)


def efficientnet_b5(
    num_classes: int = 1000, *, dropout: float = 0.4, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return compound(1.6, 2.2, num_classes, dropout=dropout, drop_path=drop_path, norm=ported, rngs=rngs)


def efficientnet_b6(
    num_classes: int = 1000, *, dropout: float = 0.5, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return compound(1.8, 2.6, num_classes, dropout=dropout, drop_path=drop_path, norm=ported, rngs=rngs)


def efficientnet_b7(
    num_classes: int = 1000, *, dropout: float = 0.5, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return compound(2.0, 3.1, num_classes, dropout=dropout, drop_path=drop_path, norm=ported, rngs=rngs)


def efficientnet_v2_s(
    num_classes: int = 1000, *, dropout: float = 0.2, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return EfficientNet(
        V2_S, num_classes, stem=24, head=1280, dropout=dropout, drop_path=drop_path, norm=second, rngs=rngs
    )


def efficientnet_v2_m(
    num_classes: int = 1000, *, dropout: float = 0.3, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return EfficientNet(
        V2_M, num_classes, stem=24, head=1280, dropout=dropout, drop_path=drop_path, norm=second, rngs=rngs
    )


def efficientnet_v2_l(
    num_classes: int = 1000, *, dropout: float = 0.4, drop_path: float = 0.2, rngs: nnx.Rngs
) -> EfficientNet:
    return EfficientNet(
        V2_L, num_classes, stem=32, head=1280, dropout=dropout, drop_path=drop_path, norm=second, rngs=rngs
    )


PRESETS = (
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    efficientnet_v2_s,
    efficientnet_v2_m,
    efficientnet_v2_l,
)
