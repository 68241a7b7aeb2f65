"""EfficientNet-Lite0 to Lite4 under the names of the PyTorch packages that carry their weights.

EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946) without squeeze-and-excitation, with ReLU6 for swish
and with stem and head not scaled (`efficientnet/lite` of github.com/tensorflow/tpu). Padding is TensorFlow's "same",
BatchNorm's eps 1e-3 and its momentum 0.01 in PyTorch's sense. Inputs are scaled by (pixel - 127) / 128.
"""

import math
from functools import partial

from flax import nnx
from jax import Array

from jaxft.models.layers import BatchNorm, Conv, DropPath, Linear, Sequential, relu6
from jaxft.models.layers.pooling import global_average_pool
from jaxft.models.layers.rematerialization import apply_block

# (repeats, kernel size, stride, expansion, channels out) of each group of blocks, before scaling.
GROUPS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280

convolution = partial(Conv, bias=False, padding="same")
normalization = partial(BatchNorm, eps=1e-3)


class MBConv(nnx.Module):
    """Inverted bottleneck: 1x1 up (where it expands), depthwise, 1x1 down, and a shortcut where the shape stays."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int,
        expansion: int,
        drop_path: float,
        momentum: float,
        rngs: nnx.Rngs,
    ) -> None:
        width = inputs * expansion
        self._expand_conv = convolution(inputs, width, 1, rngs=rngs) if expansion > 1 else None
        self._bn0 = normalization(width, momentum=momentum) if expansion > 1 else None
        self._depthwise_conv = convolution(width, width, size, stride=stride, groups=width, rngs=rngs)
        self._bn1 = normalization(width, momentum=momentum)
        self._project_conv = convolution(width, outputs, 1, rngs=rngs)
        self._bn2 = normalization(outputs, momentum=momentum)
        self.drop_path = DropPath(drop_path, rngs=rngs) if stride == 1 and inputs == outputs else None

    def __call__(self, x: Array) -> Array:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = relu6(self._bn0(self._expand_conv(y)))
        y = relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y if self.drop_path is None else x + self.drop_path(y)


class EfficientNetLite(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        width, depth: the compound scaling of channels and repeats.
        dropout: before the last linear layer, in training.
        drop_path: stochastic depth of the last block, in training; it grows linearly from 0 at the first.
        momentum: of every BatchNorm, in PyTorch's sense. At 0.01 some 500 steps must pass before the running estimates
            are those of new data.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        width: float,
        depth: float,
        dropout: float,
        drop_path: float = 0.2,
        momentum: float = 0.01,
        rngs: nnx.Rngs,
    ) -> None:
        self._conv_stem = convolution(3, STEM, 3, stride=2, rngs=rngs)
        self._bn0 = normalization(STEM, momentum=momentum)
        repeats = [repeat if group in (0, len(GROUPS) - 1) else math.ceil(repeat * depth)
                   for group, (repeat, *_) in enumerate(GROUPS)]  # fmt: skip
        blocks: list[MBConv] = []
        inputs = STEM
        for count, (_, size, stride, expansion, channels) in zip(repeats, GROUPS, strict=True):
            outputs = scaled(channels, width)
            for index in range(count):
                blocks.append(
                    MBConv(
                        inputs,
                        outputs,
                        size=size,
                        stride=stride if index == 0 else 1,
                        expansion=expansion,
                        drop_path=drop_path * len(blocks) / sum(repeats),
                        momentum=momentum,
                        rngs=rngs,
                    )
                )
                inputs = outputs
        self._blocks = Sequential(blocks)
        self._conv_head = convolution(inputs, HEAD, 1, rngs=rngs)
        self._bn1 = normalization(HEAD, momentum=momentum)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self._fc = Linear(HEAD, num_classes, rngs=rngs)

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        x = relu6(self._bn0(self._conv_stem(x)))
        maps = {}
        for index, block in enumerate(self._blocks):
            x = maps[f"_blocks.{index}"] = apply_block(block, x)
        maps["_bn1"] = self._bn1(self._conv_head(x))
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, 1280]`, the pooled input of dropout and the last linear layer."""
        return global_average_pool(relu6(self.stages(x)["_bn1"]))

    def __call__(self, x: Array) -> Array:
        return self._fc(self.dropout(self.features(x)))


def scaled(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8 and never more than 10 % down (the paper's reference code)."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


def efficientnet_lite0(
    num_classes: int = 1000, *, dropout: float = 0.2, drop_path: float = 0.2, momentum: float = 0.01, rngs: nnx.Rngs
) -> EfficientNetLite:
    options = {"dropout": dropout, "drop_path": drop_path, "momentum": momentum}
    return EfficientNetLite(num_classes, width=1.0, depth=1.0, **options, rngs=rngs)


def efficientnet_lite1(
    num_classes: int = 1000, *, dropout: float = 0.2, drop_path: float = 0.2, momentum: float = 0.01, rngs: nnx.Rngs
) -> EfficientNetLite:
    options = {"dropout": dropout, "drop_path": drop_path, "momentum": momentum}
    return EfficientNetLite(num_classes, width=1.0, depth=1.1, **options, rngs=rngs)


def efficientnet_lite2(
    num_classes: int = 1000, *, dropout: float = 0.3, drop_path: float = 0.2, momentum: float = 0.01, rngs: nnx.Rngs
) -> EfficientNetLite:
    options = {"dropout": dropout, "drop_path": drop_path, "momentum": momentum}
    return EfficientNetLite(num_classes, width=1.1, depth=1.2, **options, rngs=rngs)


def efficientnet_lite3(
    num_classes: int = 1000, *, dropout: float = 0.3, drop_path: float = 0.2, momentum: float = 0.01, rngs: nnx.Rngs
) -> EfficientNetLite:
    options = {"dropout": dropout, "drop_path": drop_path, "momentum": momentum}
    return EfficientNetLite(num_classes, width=1.2, depth=1.4, **options, rngs=rngs)


def efficientnet_lite4(
    num_classes: int = 1000, *, dropout: float = 0.3, drop_path: float = 0.2, momentum: float = 0.01, rngs: nnx.Rngs
) -> EfficientNetLite:
    options = {"dropout": dropout, "drop_path": drop_path, "momentum": momentum}
    return EfficientNetLite(num_classes, width=1.4, depth=1.8, **options, rngs=rngs)


PRESETS = (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
)
