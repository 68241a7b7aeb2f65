"""MMDetection's ResNet and ResNeXt.

He et al. 2015, https://arxiv.org/abs/1512.03385; Xie et al. 2016, https://arxiv.org/abs/1611.05431; the variants with
a deep stem and averaging shortcuts are those of He et al. 2018, https://arxiv.org/abs/1812.01187.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.models.detectors.backbones.context_block import ContextBlock
from jaxft.models.detectors.conv_module import norm_name, normalization
from jaxft.models.detectors.types import Norm
from jaxft.models.layers import Conv, Sequential, kaiming_normal_fan_out
from jaxft.models.layers.pooling import max_pool

convolution = partial(Conv, bias=False, init=kaiming_normal_fan_out)
BATCH_NORM = Norm()
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        planes: int,
        *,
        stride: int,
        dilation: int,
        style: str,
        width: int,
        groups: int,
        norm: Norm,
        zero_last: bool,
        downsample: Sequential | None,
        rngs: nnx.Rngs,
    ) -> None:
        self.name = norm_name(norm)
        self.conv1 = convolution(inputs, planes, 3, stride=stride, padding=dilation, dilation=dilation, rngs=rngs)
        self.conv2 = convolution(planes, planes, 3, padding=1, rngs=rngs)
        for number in (1, 2):
            setattr(self, f"{self.name}{number}", normalization(norm, planes))
        if zero_last:
            zero_scale(getattr(self, f"{self.name}2"))
        self.downsample = downsample

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(getattr(self, f"{self.name}1")(self.conv1(x)))
        y = getattr(self, f"{self.name}2")(self.conv2(y))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nnx.Module):
    """1x1 down, 3x3 (grouped), 1x1 up to four times the planes, and a shortcut.

    `style` says which convolution has the stride: the 3x3 (`pytorch`) or the first 1x1 (`caffe`). With `context` the
    last of them is followed by a `ContextBlock` of this ratio.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        planes: int,
        *,
        stride: int,
        dilation: int,
        style: str,
        width: int,
        groups: int,
        norm: Norm,
        zero_last: bool,
        downsample: Sequential | None,
        context: float | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        first, second = (1, stride) if style == "pytorch" else (stride, 1)
        self.name = norm_name(norm)
        self.conv1 = convolution(inputs, width, 1, stride=first, rngs=rngs)
        self.conv2 = convolution(
            width, width, 3, stride=second, padding=dilation, dilation=dilation, groups=groups, rngs=rngs
        )
        self.conv3 = convolution(width, planes * self.expansion, 1, rngs=rngs)
        for number, channels in ((1, width), (2, width), (3, planes * self.expansion)):
            setattr(self, f"{self.name}{number}", normalization(norm, channels))
        if zero_last:
            zero_scale(getattr(self, f"{self.name}3"))
        self.context_block = None if context is None else ContextBlock(planes * self.expansion, context, rngs=rngs)
        self.downsample = downsample

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(getattr(self, f"{self.name}1")(self.conv1(x)))
        y = nnx.relu(getattr(self, f"{self.name}2")(self.conv2(y)))
        y = getattr(self, f"{self.name}3")(self.conv3(y))
        y = y if self.context_block is None else self.context_block(y)
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


def zero_scale(norm: Any) -> None:
    """Makes a branch start as nothing, so that its block starts as the identity."""
    norm.scale.set_value(jnp.zeros_like(norm.scale[...]))


def average_pool_ceil(x: Array, size: int) -> Array:
    """`AvgPool2d(size, size, ceil_mode=True, count_include_pad=False)`: windows over the edge average what is there."""
    if size == 1:
        return x
    bottom, right = (-length % size for length in x.shape[1:3])
    total = jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
    n, height, width, channels = total.shape
    total = total.reshape(n, height // size, size, width // size, size, channels).sum((2, 4))
    rows, columns = (jnp.minimum(size, length - size * jnp.arange(-(-length // size))) for length in x.shape[1:3])
    return total / (rows[:, None] * columns[None]).astype(x.dtype)[None, :, :, None]


class ResNet(nnx.Module):
    """Images `[N, H, W, 3]` -> one map `[N, H / s, W / s, C]` for each of `out_indices`, as MMDetection's ResNet.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stem_channels: `base_channels` where it is None.
        base_channels: planes of the first stage.
        strides, dilations: of each stage; as many as `num_stages`.
        style: `pytorch` or `caffe`, see `Bottleneck`.
        deep_stem: three 3x3 convolutions for the 7x7 (ResNetV1d, with `avg_down`).
        avg_down: the shortcut averages and does not skip pixels.
        norm_cfg: of every convolution.
        groups, base_width: 1 and 4 where it is a ResNeXt; a plain ResNet has one group.
        zero_init_residual: whether the last scale of each block starts at 0.
        contexts: the ratio of the `ContextBlock` in each `Bottleneck` of a stage, None for a stage without; for none at
            all, nothing.
    """

    def __init__(
        self,
        depth: int,
        *,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: tuple[int, ...] = (1, 2, 2, 2),
        dilations: tuple[int, ...] = (1, 1, 1, 1),
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        style: str = "pytorch",
        deep_stem: bool = False,
        avg_down: bool = False,
        norm_cfg: Norm = BATCH_NORM,
        groups: int = 1,
        base_width: int = 4,
        zero_init_residual: bool = True,
        contexts: tuple[float | None, ...] = (),
        rngs: nnx.Rngs,
    ) -> None:
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if depth < 50 else Bottleneck
        self.out_indices, self.num_stages = out_indices, num_stages
        channels = inputs = stem_channels or base_channels
        if deep_stem:
            half, layers = channels // 2, list[Callable[[Array], Array]]()
            for number, (before, after) in enumerate(((in_channels, half), (half, half), (half, channels))):
                layers.append(convolution(before, after, 3, stride=2 if number == 0 else 1, padding=1, rngs=rngs))
                layers += [normalization(norm_cfg, after), nnx.relu]
            self.stem = Sequential(layers)
        else:
            self.conv1 = convolution(in_channels, channels, 7, stride=2, padding=3, rngs=rngs)
            setattr(self, f"{norm_name(norm_cfg)}1", normalization(norm_cfg, channels))
        self.deep_stem, self.name = deep_stem, norm_name(norm_cfg)
        for stage, count in enumerate(DEPTHS[depth][:num_stages]):
            planes, blocks = base_channels * 2**stage, []
            width = planes if groups == 1 else planes * base_width // base_channels * groups
            context = contexts[stage] if contexts else None
            further: dict[str, Any] = {} if context is None else {"context": context}
            for index in range(count):
                stride = strides[stage] if index == 0 else 1
                outputs = planes * block.expansion
                downsample = None
                if index == 0 and (stride != 1 or inputs != outputs):
                    downsample = shortcut(inputs, outputs, stride, avg_down, norm_cfg, rngs)
                blocks.append(
                    block(
                        inputs,
                        planes,
                        stride=stride,
                        dilation=dilations[stage],
                        style=style,
                        width=width,
                        groups=groups,
                        norm=norm_cfg,
                        zero_last=zero_init_residual,
                        downsample=downsample,
                        **further,
                        rngs=rngs,
                    )
                )
                inputs = outputs
            setattr(self, f"layer{stage + 1}", Sequential(blocks))

    def __call__(self, x: Array) -> tuple[Array, ...]:
        """The maps of the stages in `out_indices`, finest first."""
        x = self.stem(x) if self.deep_stem else nnx.relu(getattr(self, f"{self.name}1")(self.conv1(x)))
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        maps = []
        for stage in range(self.num_stages):
            x = getattr(self, f"layer{stage + 1}")(x)
            maps.append(x)
        return tuple(maps[index] for index in self.out_indices)


def shortcut(inputs: int, outputs: int, stride: int, avg_down: bool, norm: Norm, rngs: nnx.Rngs) -> Sequential:
    """The projection of a block whose shape changes."""
    layers: list[Callable[[Array], Array]] = [partial(average_pool_ceil, size=stride)] if avg_down else []
    layers.append(convolution(inputs, outputs, 1, stride=1 if avg_down else stride, rngs=rngs))
    return Sequential([*layers, normalization(norm, outputs)])
