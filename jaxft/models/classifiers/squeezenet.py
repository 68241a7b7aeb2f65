"""SqueezeNet 1.0 and 1.1 as torchvision builds them.

Iandola et al. 2016, https://arxiv.org/abs/1602.07360; 1.1 is of github.com/forresti/SqueezeNet.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import he_uniform, normal, zeros

from jaxft.models.layers import Conv, Sequential, flatten
from jaxft.models.layers.pooling import AdaptiveAveragePool, MaxPool, global_average_pool
from jaxft.models.layers.rematerialization import apply_block

convolution = partial(Conv, init=he_uniform(), bias_init=zeros)


class Fire(nnx.Module):
    """1x1 down to the squeezed channels, and from these 1x1 and 3x3 up to a half of the outputs each."""

    def __init__(self, inputs: int, squeezed: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.squeeze = convolution(inputs, squeezed, 1, rngs=rngs)
        self.expand1x1 = convolution(squeezed, outputs // 2, 1, rngs=rngs)
        self.expand3x3 = convolution(squeezed, outputs // 2, 3, padding=1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.squeeze(x))
        return jnp.concatenate([nnx.relu(self.expand1x1(x)), nnx.relu(self.expand3x3(x))], -1)


class SqueezeNet(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        stem: channels and size of the first convolution.
        fires: (squeezed channels, outputs) of each fire module, None for a pooling.
        dropout: before the last convolution, in training.
    """

    def __init__(
        self,
        stem: tuple[int, int],
        fires: tuple[tuple[int, int] | None, ...],
        num_classes: int = 1000,
        *,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ) -> None:
        inputs, size = stem
        layers: list[Callable[[Array], Array]] = [convolution(3, inputs, size, stride=2, rngs=rngs), nnx.relu, pool()]
        for fire in fires:
            if fire is None:
                layers.append(pool())
            else:
                layers.append(Fire(inputs, *fire, rngs=rngs))
                inputs = fire[1]
        self.features_ = Sequential(layers)
        self.classifier = Sequential(
            [
                nnx.Dropout(dropout, rngs=rngs),
                Conv(inputs, num_classes, 1, init=normal(0.01), bias_init=zeros, rngs=rngs),
                nnx.relu,
                AdaptiveAveragePool(),
            ]
        )

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps = {}
        for index, layer in enumerate(self.features_):
            x = apply_block(layer, x)
            if isinstance(layer, MaxPool) or index == len(self.features_) - 1:
                maps[f"features.{index}"] = x
        return maps

    def _map(self, x: Array) -> Array:
        *_, last = self.stages(x).values()
        return last

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, C]`, the mean of the map that the last convolution sees.

        That convolution comes before a ReLU and the pooling, so the logits are no function of these features.
        """
        return global_average_pool(self._map(x))

    def __call__(self, x: Array) -> Array:
        return flatten(self.classifier(self._map(x)))


def pool() -> MaxPool:
    """The pooling between groups of fire modules."""
    return MaxPool(3, 2, ceil=True)


def squeezenet1_0(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> SqueezeNet:
    fires = ((16, 128), (16, 128), (32, 256), None, (32, 256), (48, 384), (48, 384), (64, 512), None, (64, 512))
    return SqueezeNet((96, 7), fires, num_classes, dropout=dropout, rngs=rngs)


def squeezenet1_1(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> SqueezeNet:
    fires = ((16, 128), (16, 128), None, (32, 256), (32, 256), None, (48, 384), (48, 384), (64, 512), (64, 512))
    return SqueezeNet((64, 3), fires, num_classes, dropout=dropout, rngs=rngs)


PRESETS = (squeezenet1_0, squeezenet1_1)
