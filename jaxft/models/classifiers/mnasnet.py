"""MNASNet (B1, without squeeze-and-excitation) at four widths as torchvision builds it.

Tan et al. 2018, https://arxiv.org/abs/1807.11626. BatchNorm's momentum is 3e-4 in PyTorch's sense. The width scales the
stem, too: version 2 of torchvision's module; a checkpoint of version 1, whose stem is always 32 wide, does not fit.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
from flax import nnx
from jax import Array
from jax.nn.initializers import zeros

from jaxft.models.classifiers.efficientnet_lite import scaled
from jaxft.models.layers import BatchNorm, Conv, Linear, Sequential, kaiming_normal_fan_out
from jaxft.models.layers.pooling import global_average_pool
from jaxft.models.layers.rematerialization import apply_block

# (channels out, kernel size, stride, expansion, repeats) of each stack of blocks, before scaling.
Stack = tuple[int, int, int, int, int]
STACKS: tuple[Stack, ...] = (
    (24, 3, 2, 3, 3),
    (40, 5, 2, 3, 3),
    (80, 5, 2, 6, 3),
    (96, 3, 1, 6, 2),
    (192, 5, 2, 6, 4),
    (320, 3, 1, 6, 1),
)
STEM, SEPARABLE, HEAD = 32, 16, 1280

convolution = partial(Conv, bias=False, init=kaiming_normal_fan_out)
normalization = partial(BatchNorm, momentum=1 - 0.9997)


def uniform_by_outputs(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform in +-sqrt(3 / outputs) for a linear kernel `[inputs, outputs]`."""
    bound = math.sqrt(3 / shape[1])
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class InvertedResidual(nnx.Module):
    """1x1 up, depthwise, 1x1 down without activation, and a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, *, size: int, stride: int, expansion: int, rngs: nnx.Rngs) -> None:
        width = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.layers = Sequential(
            [
                convolution(inputs, width, 1, rngs=rngs),
                normalization(width),
                nnx.relu,
                convolution(width, width, size, stride=stride, padding=size // 2, groups=width, rngs=rngs),
                normalization(width),
                nnx.relu,
                convolution(width, outputs, 1, rngs=rngs),
                normalization(outputs),
            ]
        )

    def __call__(self, x: Array) -> Array:
        y = self.layers(x)
        return x + y if self.shortcut else y


class MNASNet(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        width: scales the channels of all but the last convolution.
        stacks: of blocks, before scaling.
        dropout: before the last linear layer, in training.
    """

    def __init__(
        self,
        width: float,
        num_classes: int = 1000,
        *,
        stacks: tuple[Stack, ...] = STACKS,
        dropout: float = 0.2,
        rngs: nnx.Rngs,
    ) -> None:
        stem, inputs = scaled(STEM, width), scaled(SEPARABLE, width)
        layers: list[Callable[[Array], Array]] = [
            convolution(3, stem, 3, stride=2, padding=1, rngs=rngs),
            normalization(stem),
            nnx.relu,
            convolution(stem, stem, 3, padding=1, groups=stem, rngs=rngs),
            normalization(stem),
            nnx.relu,
            convolution(stem, inputs, 1, rngs=rngs),
            normalization(inputs),
        ]
        for channels, size, stride, expansion, repeats in stacks:
            block = partial(
                InvertedResidual, outputs=scaled(channels, width), size=size, expansion=expansion, rngs=rngs
            )
            first = block(inputs, stride=stride)
            inputs = scaled(channels, width)
            layers.append(Sequential([first, *(block(inputs, stride=1) for _ in range(repeats - 1))]))
        layers += [convolution(inputs, HEAD, 1, rngs=rngs), normalization(HEAD), nnx.relu]
        self.layers = Sequential(layers)
        self.classifier = Sequential(
            [
                nnx.Dropout(dropout, rngs=rngs),
                Linear(HEAD, num_classes, init=uniform_by_outputs, bias_init=zeros, rngs=rngs),
            ]
        )

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps = {}
        for index, layer in enumerate(self.layers):
            x = apply_block(layer, x)
            if isinstance(layer, Sequential):
                maps[f"layers.{index}"] = x
        maps[f"layers.{len(self.layers) - 1}"] = x
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, 1280]`, the pooled input of dropout and the last linear layer."""
        return global_average_pool(self.layers(x))

    def __call__(self, x: Array) -> Array:
        return self.classifier(self.features(x))


def mnasnet0_5(num_classes: int = 1000, *, dropout: float = 0.2, rngs: nnx.Rngs) -> MNASNet:
    return MNASNet(0.5, num_classes, dropout=dropout, rngs=rngs)


def mnasnet0_75(num_classes: int = 1000, *, dropout: float = 0.2, rngs: nnx.Rngs) -> MNASNet:
    return MNASNet(0.75, num_classes, dropout=dropout, rngs=rngs)


def mnasnet1_0(num_classes: int = 1000, *, dropout: float = 0.2, rngs: nnx.Rngs) -> MNASNet:
    return MNASNet(1.0, num_classes, dropout=dropout, rngs=rngs)


def mnasnet1_3(num_classes: int = 1000, *, dropout: float = 0.2, rngs: nnx.Rngs) -> MNASNet:
    return MNASNet(1.3, num_classes, dropout=dropout, rngs=rngs)


PRESETS = (mnasnet0_5, mnasnet0_75, mnasnet1_0, mnasnet1_3)
