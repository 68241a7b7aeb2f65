"""ConvNeXt tiny to large as torchvision builds it.

Liu et al. 2022, https://arxiv.org/abs/2201.03545. Every LayerNorm has eps 1e-6 and works over the channels.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import normal, zeros

from jaxft.models.layers import Conv, DropPath, LayerNorm, Linear, Sequential, along_channels, flatten, gelu
from jaxft.models.layers.pooling import AdaptiveAveragePool
from jaxft.models.layers.rematerialization import apply_block

convolution = partial(Conv, init=normal(0.02), bias_init=zeros)
linear = partial(Linear, init=normal(0.02), bias_init=zeros)
normalization = partial(LayerNorm, eps=1e-6)
LAYER_SCALE = 1e-6


def unchanged(x: Array) -> Array:
    """Stands where PyTorch turns axes."""
    return x


class CNBlock(nnx.Module):
    """7x7 depthwise and two linear layers over the channels, scaled channel by channel, and a shortcut."""

    def __init__(self, channels: int, *, layer_scale: float, drop_path: float, rngs: nnx.Rngs) -> None:
        self.block = Sequential(
            [
                convolution(channels, channels, 7, padding=3, groups=channels, rngs=rngs),
                unchanged,
                normalization(channels),
                linear(channels, 4 * channels, rngs=rngs),
                gelu,
                linear(4 * channels, channels, rngs=rngs),
            ]
        )
        self.layer_scale = nnx.Param(jnp.full((channels, 1, 1), layer_scale))
        self.stochastic_depth = DropPath(drop_path, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        y = self.block(x)
        scale = along_channels(self.layer_scale[...].reshape(-1), y).astype(y.dtype)
        return x + self.stochastic_depth(scale * y)


class ConvNeXt(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        widths, depths: channels and blocks of each stage.
        drop_path: stochastic depth of the last block, in training; it grows linearly from 0 at the first.
        layer_scale: what every branch is scaled by at first.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        num_classes: int = 1000,
        *,
        drop_path: float,
        layer_scale: float = LAYER_SCALE,
        rngs: nnx.Rngs,
    ) -> None:
        layers: list[Callable[[Array], Array]] = []
        done, count = 0, sum(depths)
        inputs = 3
        for width, depth in zip(widths, depths, strict=True):
            if not layers:
                layers.append(Sequential([convolution(inputs, width, 4, stride=4, rngs=rngs), normalization(width)]))
            else:
                layers.append(Sequential([normalization(inputs), convolution(inputs, width, 2, stride=2, rngs=rngs)]))
            rates = [drop_path * index / (count - 1) for index in range(done, done + depth)]
            layers.append(
                Sequential([CNBlock(width, layer_scale=layer_scale, drop_path=rate, rngs=rngs) for rate in rates])
            )
            inputs, done = width, done + depth
        self.features_ = Sequential(layers)
        self.avgpool = AdaptiveAveragePool()
        self.classifier = Sequential([normalization(inputs), flatten, linear(inputs, num_classes, rngs=rngs)])

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps = {}
        for index, layer in enumerate(self.features_):
            x = maps[f"features.{index}"] = apply_block(layer, x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, C]`, the pooled and normalized input of the last linear layer."""
        norm, flat, *_ = self.classifier
        return flat(norm(self._pooled(x)))

    def _pooled(self, x: Array) -> Array:
        return self.avgpool(self.stages(x)[f"features.{len(self.features_) - 1}"])

    def __call__(self, x: Array) -> Array:
        return self.classifier(self._pooled(x))


def convnext_tiny(num_classes: int = 1000, *, drop_path: float = 0.1, rngs: nnx.Rngs) -> ConvNeXt:
    return ConvNeXt((96, 192, 384, 768), (3, 3, 9, 3), num_classes, drop_path=drop_path, rngs=rngs)


def convnext_small(num_classes: int = 1000, *, drop_path: float = 0.4, rngs: nnx.Rngs) -> ConvNeXt:
    return ConvNeXt((96, 192, 384, 768), (3, 3, 27, 3), num_classes, drop_path=drop_path, rngs=rngs)


def convnext_base(num_classes: int = 1000, *, drop_path: float = 0.5, rngs: nnx.Rngs) -> ConvNeXt:
    return ConvNeXt((128, 256, 512, 1024), (3, 3, 27, 3), num_classes, drop_path=drop_path, rngs=rngs)


def convnext_large(num_classes: int = 1000, *, drop_path: float = 0.5, rngs: nnx.Rngs) -> ConvNeXt:
    return ConvNeXt((192, 384, 768, 1536), (3, 3, 27, 3), num_classes, drop_path=drop_path, rngs=rngs)


PRESETS = (convnext_tiny, convnext_small, convnext_base, convnext_large)
