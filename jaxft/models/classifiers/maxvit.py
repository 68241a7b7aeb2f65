"""MaxViT as torchvision builds it.

Tu et al. 2022, https://arxiv.org/abs/2204.01697.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.nn.initializers import normal, zeros

from jaxft.errors import UserError
from jaxft.models.layers import (
    BatchNorm,
    Buffer,
    Conv,
    DropPath,
    LayerNorm,
    Linear,
    Named,
    Sequential,
    SqueezeExcitation,
    Wide,
    flatten,
    gelu,
)
from jaxft.models.layers.attention import attend, position_bias, relative_position_index, split_heads
from jaxft.models.layers.pooling import AdaptiveAveragePool, average_pool
from jaxft.models.layers.rematerialization import apply_block

EXPANSION = 4  # of the channels inside an MBConv and an MLP
HEAD = 32  # channels of each head of attention

convolution = partial(Conv, init=normal(0.02), bias_init=zeros)
linear = partial(Linear, init=normal(0.02), bias_init=zeros)
normalization = partial(BatchNorm, eps=1e-3, momentum=0.01)


def conv_norm(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1, rngs: nnx.Rngs) -> Sequential:
    """Convolution without bias, BatchNorm and GELU."""
    return Sequential(
        [
            convolution(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False, rngs=rngs),
            normalization(outputs),
            gelu,
        ]
    )


class MBConv(nnx.Module):
    """BatchNorm, 1x1 up, depthwise, squeeze-and-excitation and 1x1 down, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, drop_path: float, rngs: nnx.Rngs) -> None:
        width = EXPANSION * outputs
        self.proj = shortcut(inputs, outputs, stride, rngs)
        self.layers = Named(
            {
                "pre_norm": normalization(inputs),
                "conv_a": conv_norm(inputs, width, 1, rngs=rngs),
                "conv_b": conv_norm(width, width, 3, stride=stride, groups=width, rngs=rngs),
                "squeeze_excitation": SqueezeExcitation(
                    width, outputs // 4, activation=nnx.silu, init=normal(0.02), bias_init=zeros, rngs=rngs
                ),
                "conv_c": convolution(width, outputs, 1, rngs=rngs),
            }
        )
        self.stochastic_depth = DropPath(drop_path, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return (x if self.proj is None else self.proj(x)) + self.stochastic_depth(self.layers(x))


def shortcut(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> Sequential | None:
    """The pooling and projection of a block whose shape changes; None where the identity serves."""
    if stride == 1 and inputs == outputs:
        return None
    fitting = convolution(inputs, outputs, 1, rngs=rngs)
    return Sequential([halved, fitting] if stride == 2 else [fitting])


class RelativeAttention(nnx.Module):
    """Attention among `size` by `size` tokens with a trained bias for each relative position."""

    def __init__(self, channels: int, size: int, *, rngs: nnx.Rngs) -> None:
        self.heads = channels // HEAD
        self.to_qkv = linear(channels, 3 * channels, rngs=rngs)
        self.merge = linear(channels, channels, rngs=rngs)
        table = normal(0.02)(rngs.params(), ((2 * size - 1) ** 2, self.heads))
        self.relative_position_bias_table = Wide(table)
        self.relative_position_index = Buffer(relative_position_index(size, size))

    def __call__(self, x: Array) -> Array:
        """`[N, groups, tokens, channels]` -> the same shape; the logits are scaled by all channels, not a head's."""
        queries, keys, values = split_heads(self.to_qkv(x), self.heads)
        keys *= x.shape[-1] ** -0.5
        bias = position_bias(self.relative_position_bias_table[...], self.relative_position_index[...])
        return self.merge(attend(queries, keys, values, bias=bias))


class PartitionAttention(nnx.Module):
    """Attention and MLP, each after a LayerNorm and beside a shortcut, among the pixels of a group.

    Args:
        size: pixels at each side of a group.
        grid: whether a group are the pixels at one place of all cells of a `size` by `size` grid, or else a window.
        dropouts: of what attention and the MLP put out, in training.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        grid: bool,
        dropouts: tuple[float, float],
        drop_path: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.size, self.grid = size, grid
        self.attn_layer = Sequential(
            [
                LayerNorm(channels),
                RelativeAttention(channels, size, rngs=rngs),
                nnx.Dropout(dropouts[0], rngs=rngs),
            ]
        )
        self.mlp_layer = Sequential(
            [
                LayerNorm(channels),
                linear(channels, EXPANSION * channels, rngs=rngs),
                gelu,
                linear(EXPANSION * channels, channels, rngs=rngs),
                nnx.Dropout(dropouts[1], rngs=rngs),
            ]
        )
        self.stochastic_dropout = DropPath(drop_path, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, channels]` -> the same shape."""
        n, height, width, channels = x.shape
        rows, columns = height // self.size, width // self.size
        if self.grid:  # cells, and the places in them
            split, order = (self.size, rows, self.size, columns), (0, 2, 4, 1, 3, 5)
        else:  # windows, and the places in them
            split, order = (rows, self.size, columns, self.size), (0, 1, 3, 2, 4, 5)
        groups = x.reshape(n, *split, channels).transpose(order)
        y = groups.reshape(n, rows * columns, self.size**2, channels)
        y = y + self.stochastic_dropout(self.attn_layer(y))
        y = y + self.stochastic_dropout(self.mlp_layer(y))
        return y.reshape(groups.shape).transpose(np.argsort(order)).reshape(x.shape)


class Layer(nnx.Module):
    """MBConv, then attention in windows, then over a grid; `dropouts` as of `MaxViT`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        partition: int,
        dropouts: tuple[float, float],
        drop_path: float,
        rngs: nnx.Rngs,
    ) -> None:
        attention = partial(PartitionAttention, outputs, partition, dropouts=dropouts, drop_path=drop_path, rngs=rngs)
        self.layers = Named(
            {
                "MBconv": MBConv(inputs, outputs, stride=stride, drop_path=drop_path, rngs=rngs),
                "window_attention": attention(grid=False),
                "grid_attention": attention(grid=True),
            }
        )

    def __call__(self, x: Array) -> Array:
        return self.layers(x)


class Block(nnx.Module):
    """Layers at one size of the map."""

    ROW = True  # of blocks, in the sense of other families, and none itself

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = Sequential(layers)

    def __call__(self, x: Array) -> Array:
        return self.layers(x)


class MaxViT(nnx.Module):
    """Images `[N, H, W, 3]`, H and W multiples of 32 partitions (224 pixels) -> logits `[N, num_classes]`.

    Args:
        stem: channels of the two first convolutions.
        channels, depths: of each block, and its layers. The first layer of a block halves the map.
        partition: pixels at each side of a group of attention.
        dropouts: of what attention and MLPs put out, in training.
        drop_path: stochastic depth of the last layer, in training; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        stem: int,
        channels: tuple[int, ...],
        depths: tuple[int, ...],
        num_classes: int = 1000,
        *,
        partition: int = 7,
        dropouts: tuple[float, float] = (0.0, 0.0),
        drop_path: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.unit = partition * 2 ** (len(depths) + 1)
        rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())
        layer = partial(Layer, partition=partition, dropouts=dropouts, rngs=rngs)
        self.stem = Sequential(
            [
                conv_norm(3, stem, 3, stride=2, rngs=rngs),
                Sequential([convolution(stem, stem, 3, padding=1, rngs=rngs)]),
            ]
        )
        blocks = []
        inputs = stem
        for outputs, depth in zip(channels, depths, strict=True):
            layers = [layer(inputs, outputs, stride=2, drop_path=next(rates))]
            layers += [layer(outputs, outputs, stride=1, drop_path=next(rates)) for _ in range(depth - 1)]
            blocks.append(Block(layers))
            inputs = outputs
        self.blocks = Sequential(blocks)
        last = linear(inputs, num_classes, bias=False, rngs=rngs)
        self.classifier = Sequential(
            [AdaptiveAveragePool(), flatten, LayerNorm(inputs), linear(inputs, inputs, rngs=rngs), jnp.tanh, last]
        )

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        if x.shape[1] % self.unit or x.shape[2] % self.unit:
            raise UserError(
                f"This model takes images whose sides are multiples of {self.unit} pixels, not {x.shape[1]} by "
                f"{x.shape[2]}."
            )
        x = self.stem(x)
        maps = {"stem": x}
        for index, block in enumerate(self.blocks):
            x = maps[f"blocks.{index}"] = apply_block(block, x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, C]`, the input of the last linear layer."""
        x = self._map(x)
        for layer in self.classifier[:-1]:
            x = layer(x)
        return x

    def _map(self, x: Array) -> Array:
        *_, last = self.stages(x).values()
        return last

    def __call__(self, x: Array) -> Array:
        return self.classifier(self._map(x))


def halved(x: Array) -> Array:
    """The pooling in the shortcut of a block's first layer."""
    return average_pool(x, 3, 2, 1)


def maxvit_t(
    num_classes: int = 1000,
    *,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.2,
    rngs: nnx.Rngs,
) -> MaxViT:
    return MaxViT(
        64,
        (64, 128, 256, 512),
        (2, 2, 5, 2),
        num_classes,
        dropouts=(attention_dropout, dropout),
        drop_path=drop_path,
        rngs=rngs,
    )


PRESETS = (maxvit_t,)
