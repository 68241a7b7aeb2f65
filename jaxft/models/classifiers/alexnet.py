"""AlexNet as torchvision builds it: one tower, without local response normalization.

Krizhevsky 2014, https://arxiv.org/abs/1404.5997.
"""

from flax import nnx
from jax import Array

from jaxft.models.layers import Conv, Linear, LinearOverMap, Sequential, flatten
from jaxft.models.layers.pooling import AdaptiveAveragePool, MaxPool

MAP = 6  # the pixels at each side of the map that the classifier sees, whatever the size of the image


class AlexNet(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        dropout: before each hidden layer of the classifier, in training.
        hidden: features of each of these layers.
    """

    def __init__(self, num_classes: int = 1000, *, dropout: float = 0.5, hidden: int = 4096, rngs: nnx.Rngs) -> None:
        self.features_ = Sequential(
            [
                Conv(3, 64, 11, stride=4, padding=2, rngs=rngs),
                nnx.relu,
                MaxPool(3, 2),
                Conv(64, 192, 5, padding=2, rngs=rngs),
                nnx.relu,
                MaxPool(3, 2),
                Conv(192, 384, 3, padding=1, rngs=rngs),
                nnx.relu,
                Conv(384, 256, 3, padding=1, rngs=rngs),
                nnx.relu,
                Conv(256, 256, 3, padding=1, rngs=rngs),
                nnx.relu,
                MaxPool(3, 2),
            ]
        )
        self.avgpool = AdaptiveAveragePool(MAP)
        self.classifier = Sequential(
            [
                nnx.Dropout(dropout, rngs=rngs),
                LinearOverMap((MAP, MAP, 256), hidden, rngs=rngs),
                nnx.relu,
                nnx.Dropout(dropout, rngs=rngs),
                Linear(hidden, hidden, rngs=rngs),
                nnx.relu,
                Linear(hidden, num_classes, rngs=rngs),
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
        """`[N, H, W, 3]` -> `[N, 4096]`, the input of the last linear layer."""
        x = self._pooled(x)
        for layer in self.classifier[:-1]:
            x = layer(x)
        return x

    def _pooled(self, x: Array) -> Array:
        return self.avgpool(self.features_(x))

    def __call__(self, x: Array) -> Array:
        return flatten(self.classifier(self._pooled(x)))


def alexnet(num_classes: int = 1000, *, dropout: float = 0.5, rngs: nnx.Rngs) -> AlexNet:
    return AlexNet(num_classes, dropout=dropout, rngs=rngs)


PRESETS = (alexnet,)
