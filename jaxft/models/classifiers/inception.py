"""Inception v3 as torchvision builds it.

Szegedy et al. 2015, https://arxiv.org/abs/1512.00567. Meant for images of 299 by 299 pixels.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import normal

from jaxft.errors import UserError
from jaxft.models.classifiers.googlenet import ConvNorm, scaled_to_one
from jaxft.models.layers import Linear, Outputs, flatten
from jaxft.models.layers.pooling import AdaptiveAveragePool, MaxPool, average_pool, global_average_pool
from jaxft.models.layers.rematerialization import apply_block

convolution = partial(ConvNorm, deviation=0.1)


class InceptionA(nnx.Module):
    """1x1; 1x1 and 5x5; 1x1 and two 3x3; the mean of neighbors and 1x1. Puts out 224 channels and `pooled`."""

    def __init__(self, inputs: int, pooled: int, *, rngs: nnx.Rngs) -> None:
        self.branch1x1 = convolution(inputs, 64, 1, rngs=rngs)
        self.branch5x5_1 = convolution(inputs, 48, 1, rngs=rngs)
        self.branch5x5_2 = convolution(48, 64, 5, padding=2, rngs=rngs)
        self.branch3x3dbl_1 = convolution(inputs, 64, 1, rngs=rngs)
        self.branch3x3dbl_2 = convolution(64, 96, 3, padding=1, rngs=rngs)
        self.branch3x3dbl_3 = convolution(96, 96, 3, padding=1, rngs=rngs)
        self.branch_pool = convolution(inputs, pooled, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(average_pool(x, 3, 1, 1))
        return jnp.concatenate([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, pooled], -1)


class InceptionB(nnx.Module):
    """Halves the map: a strided 3x3; 1x1, 3x3 and a strided 3x3; pooling. Adds 480 channels."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs) -> None:
        self.branch3x3 = convolution(inputs, 384, 3, stride=2, rngs=rngs)
        self.branch3x3dbl_1 = convolution(inputs, 64, 1, rngs=rngs)
        self.branch3x3dbl_2 = convolution(64, 96, 3, padding=1, rngs=rngs)
        self.branch3x3dbl_3 = convolution(96, 96, 3, stride=2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return jnp.concatenate([self.branch3x3(x), double, pool(x)], -1)


class InceptionC(nnx.Module):
    """1x1; 7x7 as 1x7 and 7x1, once and twice, with `width` channels inside; the mean of neighbors and 1x1."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        flat = partial(convolution, size=(1, 7), padding=(0, 3), rngs=rngs)
        tall = partial(convolution, size=(7, 1), padding=(3, 0), rngs=rngs)
        self.branch1x1 = convolution(inputs, 192, 1, rngs=rngs)
        self.branch7x7_1 = convolution(inputs, width, 1, rngs=rngs)
        self.branch7x7_2 = flat(width, width)
        self.branch7x7_3 = tall(width, 192)
        self.branch7x7dbl_1 = convolution(inputs, width, 1, rngs=rngs)
        self.branch7x7dbl_2 = tall(width, width)
        self.branch7x7dbl_3 = flat(width, width)
        self.branch7x7dbl_4 = tall(width, width)
        self.branch7x7dbl_5 = flat(width, 192)
        self.branch_pool = convolution(inputs, 192, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return jnp.concatenate([self.branch1x1(x), once, twice, self.branch_pool(average_pool(x, 3, 1, 1))], -1)


class InceptionD(nnx.Module):
    """Halves the map: 1x1 and a strided 3x3; 1x1, 1x7, 7x1 and a strided 3x3; pooling. Adds 512 channels."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs) -> None:
        self.branch3x3_1 = convolution(inputs, 192, 1, rngs=rngs)
        self.branch3x3_2 = convolution(192, 320, 3, stride=2, rngs=rngs)
        self.branch7x7x3_1 = convolution(inputs, 192, 1, rngs=rngs)
        self.branch7x7x3_2 = convolution(192, 192, (1, 7), padding=(0, 3), rngs=rngs)
        self.branch7x7x3_3 = convolution(192, 192, (7, 1), padding=(3, 0), rngs=rngs)
        self.branch7x7x3_4 = convolution(192, 192, 3, stride=2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return jnp.concatenate([self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven), pool(x)], -1)


class InceptionE(nnx.Module):
    """1x1; 1x1, then 1x3 beside 3x1; 1x1 and 3x3, then the same; the mean of neighbors and 1x1: 2048 channels."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs) -> None:
        flat = partial(convolution, size=(1, 3), padding=(0, 1), rngs=rngs)
        tall = partial(convolution, size=(3, 1), padding=(1, 0), rngs=rngs)
        self.branch1x1 = convolution(inputs, 320, 1, rngs=rngs)
        self.branch3x3_1 = convolution(inputs, 384, 1, rngs=rngs)
        self.branch3x3_2a = flat(384, 384)
        self.branch3x3_2b = tall(384, 384)
        self.branch3x3dbl_1 = convolution(inputs, 448, 1, rngs=rngs)
        self.branch3x3dbl_2 = convolution(448, 384, 3, padding=1, rngs=rngs)
        self.branch3x3dbl_3a = flat(384, 384)
        self.branch3x3dbl_3b = tall(384, 384)
        self.branch_pool = convolution(inputs, 192, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(average_pool(x, 3, 1, 1)),
        ]
        return jnp.concatenate(branches, -1)


class Auxiliary(nnx.Module):
    """A classifier of an inner map: a pooling, 1x1, 5x5 and a linear layer."""

    def __init__(self, inputs: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.conv0 = convolution(inputs, 128, 1, rngs=rngs)
        self.conv1 = convolution(128, 768, 5, rngs=rngs)
        self.fc = Linear(768, num_classes, init=normal(0.001), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, inputs]`, 17 pixels or more at each side -> logits `[N, num_classes]`."""
        if min(x.shape[1:3]) < 17:
            raise UserError("Inception's auxiliary head takes no images below 299 by 299 pixels: use aux_logits=False.")
        return self.fc(global_average_pool(self.conv1(self.conv0(average_pool(x, 5, 3)))))


class Inception3(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`; in training `Outputs`, with those of the auxiliary head.

    Args:
        aux_logits: whether there is an auxiliary head.
        transform_input: whether images arrive normalized by ImageNet's means and deviations; the net wants -1..1.
        dropout: before the last linear layer, in training.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ) -> None:
        self.transform_input, self.auxiliary_weight, self.deterministic = transform_input, 0.4, False
        self.Conv2d_1a_3x3 = convolution(3, 32, 3, stride=2, rngs=rngs)
        self.Conv2d_2a_3x3 = convolution(32, 32, 3, rngs=rngs)
        self.Conv2d_2b_3x3 = convolution(32, 64, 3, padding=1, rngs=rngs)
        self.maxpool1 = MaxPool(3, 2)
        self.Conv2d_3b_1x1 = convolution(64, 80, 1, rngs=rngs)
        self.Conv2d_4a_3x3 = convolution(80, 192, 3, rngs=rngs)
        self.maxpool2 = MaxPool(3, 2)
        self.Mixed_5b = InceptionA(192, 32, rngs=rngs)
        self.Mixed_5c = InceptionA(256, 64, rngs=rngs)
        self.Mixed_5d = InceptionA(288, 64, rngs=rngs)
        self.Mixed_6a = InceptionB(288, rngs=rngs)
        self.Mixed_6b = InceptionC(768, 128, rngs=rngs)
        self.Mixed_6c = InceptionC(768, 160, rngs=rngs)
        self.Mixed_6d = InceptionC(768, 160, rngs=rngs)
        self.Mixed_6e = InceptionC(768, 192, rngs=rngs)
        self.AuxLogits = Auxiliary(768, num_classes, rngs=rngs) if aux_logits else None
        self.Mixed_7a = InceptionD(768, rngs=rngs)
        self.Mixed_7b = InceptionE(1280, rngs=rngs)
        self.Mixed_7c = InceptionE(2048, rngs=rngs)
        self.avgpool = AdaptiveAveragePool()
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.fc = Linear(2048, num_classes, init=normal(0.1), rngs=rngs)

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps: dict[str, Array] = {}
        for name in PARTS:
            x = scaled_to_one(x) if self.transform_input and not maps else x
            x = maps[name] = apply_block(getattr(self, name), x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, 2048]`, the pooled input of dropout and the last linear layer."""
        return flatten(self.avgpool(self.stages(x)["Mixed_7c"]))

    def __call__(self, x: Array) -> Array | Outputs:
        maps = self.stages(x)
        logits = self.fc(self.dropout(flatten(self.avgpool(maps["Mixed_7c"]))))
        if self.deterministic or self.AuxLogits is None:
            return logits
        return Outputs(logits, (self.AuxLogits(maps["Mixed_6e"]),), self.auxiliary_weight)


PARTS = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "maxpool1",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
    "maxpool2",
    "Mixed_5b",
    "Mixed_5c",
    "Mixed_5d",
    "Mixed_6a",
    "Mixed_6b",
    "Mixed_6c",
    "Mixed_6d",
    "Mixed_6e",
    "Mixed_7a",
    "Mixed_7b",
    "Mixed_7c",
)


pool = MaxPool(3, 2)  # beside the branches that halve a map


def inception_v3(
    num_classes: int = 1000,
    *,
    aux_logits: bool = True,
    transform_input: bool = False,
    dropout: float = 0.5,
    rngs: nnx.Rngs,
) -> Inception3:
    return Inception3(num_classes, aux_logits=aux_logits, transform_input=transform_input, dropout=dropout, rngs=rngs)


PRESETS = (inception_v3,)
