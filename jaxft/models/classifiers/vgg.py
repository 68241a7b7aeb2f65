"""VGG with and without BatchNorm as torchvision builds it.

Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556; BatchNorm: Ioffe and Szegedy 2015,
https://arxiv.org/abs/1502.03167.
"""

from collections.abc import Callable

from flax import nnx
from jax import Array
from jax.nn.initializers import normal, zeros

from jaxft.models.layers import BatchNorm, Conv, Linear, LinearOverMap, Sequential, flatten, kaiming_normal_fan_out
from jaxft.models.layers.pooling import AdaptiveAveragePool, MaxPool

WIDTHS = (64, 128, 256, 512, 512)
MAP = 7  # the pixels at each side of the map that the classifier sees, whatever the size of the image


class VGG(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        depths: 3x3 convolutions in each group; a group ends in a pooling.
        batch_norm: whether one follows each convolution.
        dropout: after each hidden layer of the classifier, in training.
        widths: channels of each group.
        hidden: features of each hidden layer of the classifier.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        num_classes: int = 1000,
        *,
        batch_norm: bool,
        dropout: float = 0.5,
        widths: tuple[int, ...] = WIDTHS,
        hidden: int = 4096,
        rngs: nnx.Rngs,
    ) -> None:
        layers: list[Callable[[Array], Array]] = []
        inputs = 3
        for depth, width in zip(depths, widths, strict=True):
            for _ in range(depth):
                layers.append(
                    Conv(inputs, width, 3, padding=1, init=kaiming_normal_fan_out, bias_init=zeros, rngs=rngs)
                )
                layers += [BatchNorm(width), nnx.relu] if batch_norm else [nnx.relu]
                inputs = width
            layers.append(MaxPool(2, 2))
        self.features_ = Sequential(layers)
        self.avgpool = AdaptiveAveragePool(MAP)
        self.classifier = Sequential(
            [
                LinearOverMap((MAP, MAP, inputs), hidden, init=normal(0.01), bias_init=zeros, rngs=rngs),
                nnx.relu,
                nnx.Dropout(dropout, rngs=rngs),
                Linear(hidden, hidden, init=normal(0.01), bias_init=zeros, rngs=rngs),
                nnx.relu,
                nnx.Dropout(dropout, rngs=rngs),
                Linear(hidden, num_classes, init=normal(0.01), bias_init=zeros, rngs=rngs),
            ]
        )

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps = {}
        for index, layer in enumerate(self.features_):
            x = layer(x)
            if isinstance(layer, MaxPool):
                maps[f"features.{index}"] = x
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, 4096]`, the input of the last dropout and linear layer."""
        x = self._pooled(x)
        for layer in self.classifier[:-2]:
            x = layer(x)
        return x

    def _pooled(self, x: Array) -> Array:
        return self.avgpool(self.features_(x))

    def __call__(self, x: Array) -> Array:
        return flatten(self.classifier(self._pooled(x)))


DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg11(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> VGG:
    return VGG(DEPTHS[11], num_classes, batch_norm=False, dropout=dropout, rngs=rngs)


def vgg11_bn(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> VGG:
    return VGG(DEPTHS[11], num_classes, batch_norm=True, dropout=dropout, rngs=rngs)


def vgg13(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> VGG:
    return VGG(DEPTHS[13], num_classes, batch_norm=False, dropout=dropout, rngs=rngs)


def vgg13_bn(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> VGG:
    return VGG(DEPTHS[13], num_classes, batch_norm=True, dropout=dropout, rngs=rngs)


def vgg16(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> VGG:
    return VGG(DEPTHS[16], num_classes, batch_norm=False, dropout=dropout, rngs=rngs)


def vgg16_bn(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> VGG:
    return VGG(DEPTHS[16], num_classes, batch_norm=True, dropout=dropout, rngs=rngs)


def vgg19(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> VGG:
    return VGG(DEPTHS[19], num_classes, batch_norm=False, dropout=dropout, rngs=rngs)


def vgg19_bn(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> VGG:
    return VGG(DEPTHS[19], num_classes, batch_norm=True, dropout=dropout, rngs=rngs)


PRESETS = (vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn)
