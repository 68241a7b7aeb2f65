"""MobileNetV2 as torchvision builds it.

Sandler et al. 2018, https://arxiv.org/abs/1801.04381.
"""

from collections.abc import Callable

from flax import nnx
from jax import Array
from jax.nn.initializers import normal, zeros

from jaxft.models.classifiers.efficientnet_lite import scaled
from jaxft.models.layers import BatchNorm, Conv, Linear, Sequential, kaiming_normal_fan_out, relu6
from jaxft.models.layers.pooling import global_average_pool
from jaxft.models.layers.rematerialization import apply_block

# (expansion, channels out, repeats, stride) of each group of blocks, before scaling.
Group = tuple[int, int, int, int]
GROUPS: tuple[Group, ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, HEAD = 32, 1280


def unit(
    inputs: int,
    outputs: int,
    size: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: Callable[[int], BatchNorm] = BatchNorm,
    activation: Callable[[Array], Array] | None = None,
    rngs: nnx.Rngs,
) -> Sequential:
    """`torchvision.ops.Conv2dNormActivation`: a convolution padded by half its size, BatchNorm and an activation."""
    convolution = Conv(
        inputs,
        outputs,
        size,
        stride=stride,
        padding=size // 2,
        groups=groups,
        bias=False,
        init=kaiming_normal_fan_out,
        rngs=rngs,
    )
    return Sequential([convolution, norm(outputs), *([] if activation is None else [activation])])


class InvertedResidual(nnx.Module):
    """1x1 up (where it expands), depthwise, 1x1 down without activation, and a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int, rngs: nnx.Rngs) -> None:
        width = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = Sequential(
            [
                *([unit(inputs, width, 1, activation=relu6, rngs=rngs)] if expansion > 1 else []),
                unit(width, width, stride=stride, groups=width, activation=relu6, rngs=rngs),
                *unit(width, outputs, 1, rngs=rngs),
            ]
        )

    def __call__(self, x: Array) -> Array:
        y = self.conv(x)
        return x + y if self.shortcut else y


class MobileNetV2(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        groups: of blocks, before scaling.
        width: scales the channels; those before the classifier never below 1280.
        dropout: before the last linear layer, in training.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        groups: tuple[Group, ...] = GROUPS,
        width: float = 1.0,
        dropout: float = 0.2,
        rngs: nnx.Rngs,
    ) -> None:
        inputs, head = scaled(STEM, width), scaled(HEAD, max(1.0, width))
        layers: list[Callable[[Array], Array]] = [unit(3, inputs, stride=2, activation=relu6, rngs=rngs)]
        for expansion, channels, repeats, stride in groups:
            outputs = scaled(channels, width)
            for index in range(repeats):
                layers.append(
                    InvertedResidual(
                        inputs, outputs, stride=stride if index == 0 else 1, expansion=expansion, rngs=rngs
                    )
                )
                inputs = outputs
        layers.append(unit(inputs, head, 1, activation=relu6, rngs=rngs))
        self.features_ = Sequential(layers)
        self.classifier = Sequential(
            [
                nnx.Dropout(dropout, rngs=rngs),
                Linear(head, num_classes, init=normal(0.01), bias_init=zeros, rngs=rngs),
            ]
        )

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps = {}
        for index, layer in enumerate(self.features_):
            x = maps[f"features.{index}"] = apply_block(layer, x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, C]`, the pooled input of dropout and the last linear layer."""
        return global_average_pool(self.stages(x)[f"features.{len(self.features_) - 1}"])

    def __call__(self, x: Array) -> Array:
        return self.classifier(self.features(x))


def mobilenet_v2(num_classes: int = 1000, *, dropout: float = 0.2, rngs: nnx.Rngs) -> MobileNetV2:
    return MobileNetV2(num_classes, dropout=dropout, rngs=rngs)


PRESETS = (mobilenet_v2,)
