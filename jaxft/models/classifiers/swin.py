"""Swin Transformer, versions 1 and 2, as torchvision builds them.

Liu et al. 2021, https://arxiv.org/abs/2103.14030, and 2021, https://arxiv.org/abs/2111.09883.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.nn.initializers import zeros

from jaxft.models.layers import Conv, DropPath, LayerNorm, Linear, Sequential, flatten
from jaxft.models.layers.attention import mlp
from jaxft.models.layers.pooling import AdaptiveAveragePool
from jaxft.models.layers.window_attention import CosineWindowAttention, WindowAttention, small

PATCH = 4  # pixels at each side of what becomes one at first
EXPANSION = 4  # of the channels inside an MLP


class Block(nnx.Module):
    """Attention and MLP beside shortcuts; the LayerNorm of each comes first in version 1 and last in version 2."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        version: int,
        window: int,
        shift: int,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.version = version
        attention = WindowAttention if version == 1 else CosineWindowAttention
        self.norm1 = LayerNorm(channels)
        self.attn = attention(
            channels,
            heads,
            window=window,
            shift=shift,
            dropout=dropout,
            attention_dropout=attention_dropout,
            rngs=rngs,
        )
        self.stochastic_depth = DropPath(drop_path, rngs=rngs)
        self.norm2 = LayerNorm(channels)
        self.mlp = mlp(channels, EXPANSION * channels, dropout=dropout, init=small, bias_init=zeros, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for norm, branch in ((self.norm1, self.attn), (self.norm2, self.mlp)):
            x = x + self.stochastic_depth(branch(norm(x)) if self.version == 1 else norm(branch(x)))
        return x


class PatchMerging(nnx.Module):
    """Every 2x2 pixels become one of twice the channels; the LayerNorm comes first in version 1, last in version 2."""

    def __init__(self, channels: int, *, version: int, rngs: nnx.Rngs) -> None:
        self.version = version
        self.reduction = Linear(4 * channels, 2 * channels, bias=False, init=small, rngs=rngs)
        self.norm = LayerNorm((4 if version == 1 else 2) * channels)

    def __call__(self, x: Array) -> Array:
        n, height, width, channels = x.shape
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        x = x.reshape(n, -(-height // 2), 2, -(-width // 2), 2, channels).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(*x.shape[:3], 4 * channels)
        return self.reduction(self.norm(x)) if self.version == 1 else self.norm(self.reduction(x))


class SwinTransformer(nnx.Module):
    """Images `[N, H, W, 3]` -> logits `[N, num_classes]`.

    Args:
        version: 1 or 2.
        channels: of the first stage; each later one has twice those of the one before.
        depths, heads: blocks, and heads of attention, of each stage.
        window: pixels at each side of a window, after the image was cut into patches.
        dropout: in training, of what attention and each layer of an MLP put out.
        attention_dropout: in training, of the weights of attention.
        drop_path: stochastic depth of the last block, in training; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        version: int,
        channels: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        num_classes: int = 1000,
        *,
        window: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float,
        rngs: nnx.Rngs,
    ) -> None:
        rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())

        def block(index: int, channels: int, heads: int) -> Block:
            return Block(
                channels,
                heads,
                version=version,
                window=window,
                shift=window // 2 if index % 2 else 0,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=next(rates),
                rngs=rngs,
            )

        patches = Conv(3, channels, PATCH, stride=PATCH, rngs=rngs)
        parts: list[Callable[[Array], Array]] = [Sequential([patches, as_it_is, LayerNorm(channels)])]
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if stage > 0:
                parts.append(PatchMerging(channels, version=version, rngs=rngs))
                channels *= 2
            parts.append(Sequential([block(index, channels, count) for index in range(depth)]))
        self.features_ = Sequential(parts)
        self.norm = LayerNorm(channels)
        self.avgpool, self.flatten = AdaptiveAveragePool(), flatten
        self.head = Linear(channels, num_classes, init=small, bias_init=zeros, rngs=rngs)

    def stages(self, x: Array) -> dict[str, Array]:
        """The feature maps of an image batch by the path of the PyTorch module that puts them out, in order."""
        maps = {}
        for index, part in enumerate(self.features_):
            x = maps[f"features.{index}"] = part(x)
        maps["norm"] = self.norm(x)
        return maps

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, C]`, the input of the last linear layer."""
        return self.flatten(self.avgpool(self.stages(x)["norm"]))

    def __call__(self, x: Array) -> Array:
        return self.head(self.features(x))


def as_it_is(x: Array) -> Array:
    """Stands where PyTorch moves the channels to the end."""
    return x


def swin_t(
    num_classes: int = 1000,
    *,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.2,
    rngs: nnx.Rngs,
) -> SwinTransformer:
    return SwinTransformer(
        1,
        96,
        (2, 2, 6, 2),
        (3, 6, 12, 24),
        num_classes,
        window=7,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        rngs=rngs,
    )


def swin_s(
    num_classes: int = 1000,
    *,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.3,
    rngs: nnx.Rngs,
) -> SwinTransformer:
    return SwinTransformer(
        1,
        96,
        (2, 2, 18, 2),
        (3, 6, 12, 24),
        num_classes,
        window=7,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        rngs=rngs,
    )


def swin_b(
    num_classes: int = 1000,
    *,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.5,
    rngs: nnx.Rngs,
) -> SwinTransformer:
    return SwinTransformer(
        1,
        128,
        (2, 2, 18, 2),
        (4, 8, 16, 32),
        num_classes,
        window=7,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        rngs=rngs,
    )


def swin_v2_t(
    num_classes: int = 1000,
    *,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.2,
    rngs: nnx.Rngs,
) -> SwinTransformer:
    return SwinTransformer(
        2,
        96,
        (2, 2, 6, 2),
        (3, 6, 12, 24),
        num_classes,
        window=8,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        rngs=rngs,
    )


def swin_v2_s(
    num_classes: int = 1000,
    *,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.3,
    rngs: nnx.Rngs,
) -> SwinTransformer:
    return SwinTransformer(
        2,
        96,
        (2, 2, 18, 2),
        (3, 6, 12, 24),
        num_classes,
        window=8,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        rngs=rngs,
    )


def swin_v2_b(
    num_classes: int = 1000,
    *,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    drop_path: float = 0.5,
    rngs: nnx.Rngs,
) -> SwinTransformer:
    return SwinTransformer(
        2,
        128,
        (2, 2, 18, 2),
        (4, 8, 16, 32),
        num_classes,
        window=8,
        dropout=dropout,
        attention_dropout=attention_dropout,
        drop_path=drop_path,
        rngs=rngs,
    )


PRESETS = (swin_t, swin_s, swin_b, swin_v2_t, swin_v2_s, swin_v2_b)
