"""ShuffleNetV2 at four widths as torchvision builds it.

Ma et al. 2018, https://arxiv.org/abs/1807.11164.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.layers import BatchNorm, Conv, Linear, Sequential
from jaxft.models.layers.pooling import MaxPool, global_average_pool

convolution = partial(Conv, bias=False)


class InvertedResidual(nnx.Module):
    """1x1, depthwise, 1x1 on half of the channels, the other half untouched, and a shuffle of the two.

    Where the map shrinks (stride 2) both halves are made of all the channels.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs) -> None:
        half = outputs // 2
        taken = inputs if stride > 1 else half
        self.branch1 = shrunk(inputs, half, stride, rngs) if stride > 1 else None
        self.branch2 = Sequential(
            [
                convolution(taken, half, 1, rngs=rngs),
                BatchNorm(half),
                nnx.relu,
                convolution(half, half, 3, stride=stride, padding=1, groups=half, rngs=rngs),
                BatchNorm(half),
                convolution(half, half, 1, rngs=rngs),
                BatchNorm(half),
                nnx.relu,
            ]
        )

    def __call__(self, x: Array) -> Array:
        if self.branch1 is None:
            kept, worked = jnp.split(x, 2, axis=-1)
            return shuffled(kept, self.branch2(worked))
        return shuffled(self.branch1(x), self.branch2(x))


def shrunk(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> Sequential:
    """The short branch where the map shrinks: depthwise and 1x1."""
    return Sequential(
        [
            convolution(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, rngs=rngs),
            BatchNorm(inputs),
            convolution(inputs, outputs, 1, rngs=rngs),
            BatchNorm(outputs),
            nnx.relu,
        ]
    )


def shuffled(first: Array, second: Array) -> Array:
    """The channels of two maps in turns: first 0, second 0, first 1, second 1, ..."""
    return jnp.stack([first, second], -1).reshape(*first.shape[:-1], -1)


class ShuffleNetV2(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        repeats: blocks of each of the three stages.
        widths: channels of the stem, of the three stages and of the last convolution.
    """

    def __init__(
        self, repeats: tuple[int, int, int], widths: tuple[int, ...], num_classes: int = 1000, *, rngs: nnx.Rngs
    ) -> None:
        stem, *stages, head = widths

        def stage(number: int) -> Sequential:
            inputs, outputs = widths[number], widths[number + 1]
            first = InvertedResidual(inputs, outputs, stride=2, rngs=rngs)
            rest = [InvertedResidual(outputs, outputs, stride=1, rngs=rngs) for _ in range(repeats[number] - 1)]
            return Sequential([first, *rest])

        self.conv1 = Sequential([convolution(3, stem, 3, stride=2, padding=1, rngs=rngs), BatchNorm(stem), nnx.relu])
        self.maxpool = MaxPool(3, 2, 1)
        self.stage2, self.stage3, self.stage4 = stage(0), stage(1), stage(2)
        self.conv5 = Sequential([convolution(stages[-1], head, 1, rngs=rngs), BatchNorm(head), nnx.relu])
        self.fc = Linear(head, num_classes, rngs=rngs)

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        x = self.maxpool(self.conv1(x))
        maps = {"maxpool": x}
        for name, layer in (
            ("stage2", self.stage2),
            ("stage3", self.stage3),
            ("stage4", self.stage4),
            ("conv5", self.conv5),
        ):
            x = maps[name] = layer(x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, C]`, the input of the last linear layer."""
        return global_average_pool(self.stages(x)["conv5"])

    def __call__(self, x: Array) -> Array:
        return self.fc(self.features(x))


def shufflenet_v2_x0_5(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ShuffleNetV2:
    return ShuffleNetV2((4, 8, 4), (24, 48, 96, 192, 1024), num_classes, rngs=rngs)


def shufflenet_v2_x1_0(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ShuffleNetV2:
    return ShuffleNetV2((4, 8, 4), (24, 116, 232, 464, 1024), num_classes, rngs=rngs)


def shufflenet_v2_x1_5(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ShuffleNetV2:
    return ShuffleNetV2((4, 8, 4), (24, 176, 352, 704, 1024), num_classes, rngs=rngs)


def shufflenet_v2_x2_0(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ShuffleNetV2:
    return ShuffleNetV2((4, 8, 4), (24, 244, 488, 976, 2048), num_classes, rngs=rngs)


PRESETS = (shufflenet_v2_x0_5, shufflenet_v2_x1_0, shufflenet_v2_x1_5, shufflenet_v2_x2_0)
