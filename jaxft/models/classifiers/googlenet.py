"""GoogLeNet (Inception v1) with BatchNorm as torchvision builds it.

Szegedy et al. 2014, https://arxiv.org/abs/1409.4842; BatchNorm: Ioffe and Szegedy 2015,
https://arxiv.org/abs/1502.03167. As in TensorFlow's net, whose weights torchvision has, the "5x5" branches are 3x3.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import normal

from jaxft.models.layers import BatchNorm, Conv, IntOrPair, Linear, LinearOverMap, Outputs, Sequential, flatten
from jaxft.models.layers.pooling import AdaptiveAveragePool, MaxPool, adaptive_average_pool
from jaxft.models.layers.rematerialization import apply_block


class ConvNorm(nnx.Module):
    """Convolution, BatchNorm and ReLU; the kernel is drawn with this standard deviation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: IntOrPair,
        *,
        stride: int = 1,
        padding: IntOrPair = 0,
        deviation: float = 0.01,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = Conv(
            inputs, outputs, size, stride=stride, padding=padding, bias=False, init=normal(deviation), rngs=rngs
        )
        self.bn = BatchNorm(outputs, eps=1e-3)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.bn(self.conv(x)))


class Inception(nnx.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; the same with fewer channels; pooling and 1x1.

    Args:
        inputs: channels.
        single: outputs of the first branch.
        second, third: channels between the convolutions of these branches, and outputs.
        pooled: outputs of the fourth.
    """

    def __init__(
        self,
        inputs: int,
        single: int,
        second: tuple[int, int],
        third: tuple[int, int],
        pooled: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        def two(reduced: int, outputs: int) -> Sequential:
            return Sequential(
                [ConvNorm(inputs, reduced, 1, rngs=rngs), ConvNorm(reduced, outputs, 3, padding=1, rngs=rngs)]
            )

        self.branch1 = ConvNorm(inputs, single, 1, rngs=rngs)
        self.branch2 = two(*second)
        self.branch3 = two(*third)
        self.branch4 = Sequential([MaxPool(3, 1, 1, ceil=True), ConvNorm(inputs, pooled, 1, rngs=rngs)])

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], -1)


class Auxiliary(nnx.Module):
    """A classifier of an inner map: pooling to 4x4, a 1x1 convolution, and two linear layers."""

    def __init__(self, inputs: int, num_classes: int, dropout: float, *, rngs: nnx.Rngs) -> None:
        self.conv = ConvNorm(inputs, 128, 1, rngs=rngs)
        self.fc1 = LinearOverMap((4, 4, 128), 1024, init=normal(0.01), rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.fc2 = Linear(1024, num_classes, init=normal(0.01), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, inputs]` -> logits `[N, num_classes]`."""
        x = nnx.relu(self.fc1(self.conv(adaptive_average_pool(x, 4))))
        return self.fc2(self.dropout(x))


class GoogLeNet(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`; in training `Outputs`, with those of the auxiliary heads.

    Args:
        aux_logits: whether there are auxiliary heads.
        transform_input: whether images arrive normalized by ImageNet's means and deviations; the net wants -1..1.
        dropout, auxiliary_dropout: before the last linear layer of the net and of each auxiliary head, in training.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.2,
        auxiliary_dropout: float = 0.7,
        rngs: nnx.Rngs,
    ) -> None:
        self.transform_input, self.auxiliary_weight, self.deterministic = transform_input, 0.3, False
        self.conv1 = ConvNorm(3, 64, 7, stride=2, padding=3, rngs=rngs)
        self.maxpool1 = MaxPool(3, 2, ceil=True)
        self.conv2 = ConvNorm(64, 64, 1, rngs=rngs)
        self.conv3 = ConvNorm(64, 192, 3, padding=1, rngs=rngs)
        self.maxpool2 = MaxPool(3, 2, ceil=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32, rngs=rngs)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64, rngs=rngs)
        self.maxpool3 = MaxPool(3, 2, ceil=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64, rngs=rngs)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64, rngs=rngs)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64, rngs=rngs)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64, rngs=rngs)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128, rngs=rngs)
        self.maxpool4 = MaxPool(2, 2, ceil=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128, rngs=rngs)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128, rngs=rngs)
        self.aux1 = Auxiliary(512, num_classes, auxiliary_dropout, rngs=rngs) if aux_logits else None
        self.aux2 = Auxiliary(528, num_classes, auxiliary_dropout, rngs=rngs) if aux_logits else None
        self.avgpool = AdaptiveAveragePool()
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.fc = Linear(1024, num_classes, init=normal(0.01), rngs=rngs)

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps = {}
        x = maps["maxpool1"] = self.maxpool1(self.conv1(scaled_to_one(x) if self.transform_input else x))
        x = maps["maxpool2"] = self.maxpool2(self.conv3(self.conv2(x)))
        for name, block in (("inception3a", self.inception3a), ("inception3b", self.inception3b)):
            x = maps[name] = apply_block(block, x)
        x = maps["maxpool3"] = self.maxpool3(x)
        for name, block in (
            ("inception4a", self.inception4a),
            ("inception4b", self.inception4b),
            ("inception4c", self.inception4c),
            ("inception4d", self.inception4d),
            ("inception4e", self.inception4e),
        ):
            x = maps[name] = apply_block(block, x)
        x = maps["maxpool4"] = self.maxpool4(x)
        for name, block in (("inception5a", self.inception5a), ("inception5b", self.inception5b)):
            x = maps[name] = apply_block(block, x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, 1024]`, the pooled input of dropout and the last linear layer."""
        return flatten(self.avgpool(self.stages(x)["inception5b"]))

    def __call__(self, x: Array) -> Array | Outputs:
        maps = self.stages(x)
        logits = self.fc(self.dropout(flatten(self.avgpool(maps["inception5b"]))))
        if self.deterministic or self.aux1 is None or self.aux2 is None:
            return logits
        auxiliary = self.aux2(maps["inception4d"]), self.aux1(maps["inception4a"])
        return Outputs(logits, auxiliary, self.auxiliary_weight)


def scaled_to_one(x: Array) -> Array:
    """Images normalized by ImageNet's means and deviations -> the same scaled to -1..1."""
    scale, shift = jnp.array([0.229, 0.224, 0.225]) / 0.5, (jnp.array([0.485, 0.456, 0.406]) - 0.5) / 0.5
    return x * scale.reshape(1, 1, 1, 3).astype(x.dtype) + shift.reshape(1, 1, 1, 3).astype(x.dtype)


def googlenet(
    num_classes: int = 1000,
    *,
    aux_logits: bool = True,
    transform_input: bool = False,
    dropout: float = 0.2,
    auxiliary_dropout: float = 0.7,
    rngs: nnx.Rngs,
) -> GoogLeNet:
    return GoogLeNet(
        num_classes,
        aux_logits=aux_logits,
        transform_input=transform_input,
        dropout=dropout,
        auxiliary_dropout=auxiliary_dropout,
        rngs=rngs,
    )


PRESETS = (googlenet,)
