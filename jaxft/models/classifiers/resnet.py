"""ResNet, ResNeXt and Wide ResNet as torchvision builds them.

He et al. 2015, https://arxiv.org/abs/1512.03385; Xie et al. 2016, https://arxiv.org/abs/1611.05431; Zagoruyko and
Komodakis 2016, https://arxiv.org/abs/1605.07146. Strides sit in the 3x3 convolution of a bottleneck ("v1.5").
"""

from functools import partial

from flax import nnx
from jax import Array

from jaxft.models.layers import BatchNorm, Conv, Linear, Sequential, flatten, kaiming_normal_fan_out
from jaxft.models.layers.pooling import AdaptiveAveragePool, MaxPool

convolution = partial(Conv, bias=False, init=kaiming_normal_fan_out)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, *, stride: int, groups: int, width_per_group: int, rngs: nnx.Rngs
    ) -> None:
        if (groups, width_per_group) != (1, 64):
            raise ValueError("a basic block has one group of the full width; grouped or wide nets use bottlenecks")
        self.conv1 = convolution(inputs, planes, 3, stride=stride, padding=1, rngs=rngs)
        self.bn1, self.relu = BatchNorm(planes), nnx.relu
        self.conv2 = convolution(planes, planes, 3, padding=1, rngs=rngs)
        self.bn2 = BatchNorm(planes)
        self.downsample = shortcut(inputs, planes, stride, rngs)

    def __call__(self, x: Array) -> Array:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nnx.Module):
    """1x1 down, 3x3 (grouped, strided), 1x1 up to four times the planes, and a shortcut."""

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, *, stride: int, groups: int, width_per_group: int, rngs: nnx.Rngs
    ) -> None:
        width, outputs = planes * width_per_group // 64 * groups, planes * self.expansion
        self.conv1 = convolution(inputs, width, 1, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = convolution(width, width, 3, stride=stride, padding=1, groups=groups, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = convolution(width, outputs, 1, rngs=rngs)
        self.bn3, self.relu = BatchNorm(outputs), nnx.relu
        self.downsample = shortcut(inputs, outputs, stride, rngs)

    def __call__(self, x: Array) -> Array:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> Sequential | None:
    """The projection of a block whose shape changes; None where the identity serves."""
    if stride == 1 and inputs == outputs:
        return None
    return Sequential([convolution(inputs, outputs, 1, stride=stride, rngs=rngs), BatchNorm(outputs)])


class ResNet(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each of the four layers.
        groups, width_per_group: 1 and 64; ResNeXt and Wide ResNet change them.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        num_classes: int = 1000,
        *,
        groups: int = 1,
        width_per_group: int = 64,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = convolution(3, 64, 7, stride=2, padding=3, rngs=rngs)
        self.bn1 = BatchNorm(64)
        self.relu, self.maxpool = nnx.relu, MaxPool(3, 2, 1)
        inputs = 64

        def layer(planes: int, depth: int, stride: int) -> Sequential:
            nonlocal inputs
            blocks = []
            for index in range(depth):
                blocks.append(
                    block(
                        inputs,
                        planes,
                        stride=stride if index == 0 else 1,
                        groups=groups,
                        width_per_group=width_per_group,
                        rngs=rngs,
                    )
                )
                inputs = planes * block.expansion
            return Sequential(blocks)

        self.layer1 = layer(64, depths[0], 1)
        self.layer2 = layer(128, depths[1], 2)
        self.layer3 = layer(256, depths[2], 2)
        self.layer4 = layer(512, depths[3], 2)
        self.avgpool = AdaptiveAveragePool()
        self.fc = Linear(inputs, num_classes, rngs=rngs)

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = {"maxpool": x}
        for name, layer in (
            ("layer1", self.layer1),
            ("layer2", self.layer2),
            ("layer3", self.layer3),
            ("layer4", self.layer4),
        ):
            x = maps[name] = layer(x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, C]`, the input of the last linear layer."""
        return flatten(self.avgpool(self.stages(x)["layer4"]))

    def __call__(self, x: Array) -> Array:
        return self.fc(self.features(x))


def resnet18(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, rngs=rngs)


def resnet34(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, rngs=rngs)


def resnet50(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, rngs=rngs)


def resnet101(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, rngs=rngs)


def resnet152(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, rngs=rngs)


def resnext50_32x4d(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, groups=32, width_per_group=4, rngs=rngs)


def resnext101_32x8d(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, groups=32, width_per_group=8, rngs=rngs)


def resnext101_64x4d(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, groups=64, width_per_group=4, rngs=rngs)


def wide_resnet50_2(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width_per_group=128, rngs=rngs)


def wide_resnet101_2(num_classes: int = 1000, *, rngs: nnx.Rngs) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, width_per_group=128, rngs=rngs)


PRESETS = (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
