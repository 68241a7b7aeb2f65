"""DenseNet as torchvision builds it: with bottlenecks, and transitions that halve the channels ("DenseNet-BC").

Huang et al. 2016, https://arxiv.org/abs/1608.06993.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import variance_scaling, zeros

from jaxft.models.layers import BatchNorm, Conv, Linear, Named
from jaxft.models.layers.pooling import AveragePool, MaxPool, global_average_pool
from jaxft.models.layers.rematerialization import apply_block

BOTTLENECK = 4  # the channels between the two convolutions of a layer, in multiples of the growth

convolution = partial(Conv, bias=False, init=variance_scaling(2, "fan_in", "normal"))


class DenseLayer(nnx.Module):
    """1x1 down to the bottleneck and 3x3 to the new channels, each after BatchNorm and ReLU."""

    def __init__(self, inputs: int, growth: int, dropout: float, *, rngs: nnx.Rngs) -> None:
        width = BOTTLENECK * growth
        self.norm1 = BatchNorm(inputs)
        self.conv1 = convolution(inputs, width, 1, rngs=rngs)
        self.norm2 = BatchNorm(width)
        self.conv2 = convolution(width, growth, 3, padding=1, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, inputs]` -> `[N, H, W, growth]`, the new channels alone."""
        y = self.conv1(nnx.relu(self.norm1(x)))
        return self.dropout(self.conv2(nnx.relu(self.norm2(y))))


class DenseBlock(nnx.Module):
    """Layers `denselayer1`, `denselayer2`, ..., each of which sees the block's input and all that the former added."""

    def __init__(self, inputs: int, depth: int, growth: int, dropout: float, *, rngs: nnx.Rngs) -> None:
        self.depth = depth
        for index in range(depth):
            layer = DenseLayer(inputs + index * growth, growth, dropout, rngs=rngs)
            setattr(self, f"denselayer{index + 1}", layer)

    def __call__(self, x: Array) -> Array:
        for index in range(self.depth):
            x = jnp.concatenate([x, apply_block(getattr(self, f"denselayer{index + 1}"), x)], -1)
        return x


class Transition(nnx.Module):
    """BatchNorm, ReLU, 1x1 to half of the channels, and the mean of every 2x2 pixels."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs) -> None:
        self.norm = BatchNorm(inputs)
        self.conv = convolution(inputs, inputs // 2, 1, rngs=rngs)
        self.pool = AveragePool(2, 2)

    def __call__(self, x: Array) -> Array:
        return self.pool(self.conv(nnx.relu(self.norm(x))))


class DenseNet(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        growth: channels that each layer adds.
        depths: layers in each dense block.
        stem: channels of the first convolution.
        dropout: after each layer of a dense block, in training.
    """

    def __init__(
        self,
        growth: int,
        depths: tuple[int, ...],
        stem: int,
        num_classes: int = 1000,
        *,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        trunk: dict[str, Callable[[Array], Array]] = {
            "conv0": convolution(3, stem, 7, stride=2, padding=3, rngs=rngs),
            "norm0": BatchNorm(stem),
            "relu0": nnx.relu,
            "pool0": MaxPool(3, 2, 1),
        }
        channels = stem
        for index, depth in enumerate(depths, 1):
            trunk[f"denseblock{index}"] = DenseBlock(channels, depth, growth, dropout, rngs=rngs)
            channels += depth * growth
            if index < len(depths):
                trunk[f"transition{index}"] = Transition(channels, rngs=rngs)
                channels //= 2
        trunk["norm5"] = BatchNorm(channels)
        self.features_ = Named(trunk)
        self.classifier = Linear(channels, num_classes, bias_init=zeros, rngs=rngs)

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        shown = ("pool", "dense", "transition", "norm5")
        return {f"features.{name}": y for name, y in each(self.features_, x).items() if name.startswith(shown)}

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, C]`, the input of the last linear layer."""
        return global_average_pool(nnx.relu([*each(self.features_, x).values()][-1]))

    def __call__(self, x: Array) -> Array:
        return self.classifier(self.features(x))


def each(trunk: Named, x: Array) -> dict[str, Array]:
    """What each part of the trunk puts out, in order."""
    return {name: (x := getattr(trunk, name)(x)) for name in trunk.order}


def densenet121(num_classes: int = 1000, *, dropout: float = 0.0, rngs: nnx.Rngs) -> DenseNet:
    return DenseNet(32, (6, 12, 24, 16), 64, num_classes, dropout=dropout, rngs=rngs)


def densenet161(num_classes: int = 1000, *, dropout: float = 0.0, rngs: nnx.Rngs) -> DenseNet:
    return DenseNet(48, (6, 12, 36, 24), 96, num_classes, dropout=dropout, rngs=rngs)


def densenet169(num_classes: int = 1000, *, dropout: float = 0.0, rngs: nnx.Rngs) -> DenseNet:
    return DenseNet(32, (6, 12, 32, 32), 64, num_classes, dropout=dropout, rngs=rngs)


def densenet201(num_classes: int = 1000, *, dropout: float = 0.0, rngs: nnx.Rngs) -> DenseNet:
    return DenseNet(32, (6, 12, 48, 32), 64, num_classes, dropout=dropout, rngs=rngs)


PRESETS = (densenet121, densenet161, densenet169, densenet201)
