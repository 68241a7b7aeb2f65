"""Vision Transformer as torchvision builds it.

Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.nn.initializers import normal, xavier_uniform, zeros

from jaxft.errors import UserError
from jaxft.models.layers import Conv, LayerNorm, Linear, Named
from jaxft.models.layers.attention import MultiheadAttention, mlp
from jaxft.models.layers.rematerialization import apply_block

POSITIONS = "encoder.pos_embedding"


class EncoderBlock(nnx.Module):
    """Attention and MLP, each after a LayerNorm and beside a shortcut."""

    def __init__(
        self, channels: int, heads: int, hidden: int, *, dropout: float, attention_dropout: float, rngs: nnx.Rngs
    ) -> None:
        self.ln_1 = LayerNorm(channels, eps=1e-6)
        self.self_attention = MultiheadAttention(channels, heads, dropout=attention_dropout, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.ln_2 = LayerNorm(channels, eps=1e-6)
        self.mlp = mlp(channels, hidden, dropout=dropout, init=xavier_uniform(), bias_init=normal(1e-6), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.dropout(self.self_attention(self.ln_1(x)))
        return x + self.mlp(self.ln_2(x))


class Encoder(nnx.Module):
    """Position embeddings, the blocks `layers.encoder_layer_0`, `layers.encoder_layer_1`, ..., and a LayerNorm."""

    def __init__(
        self,
        tokens: int,
        depth: int,
        channels: int,
        heads: int,
        hidden: int,
        *,
        dropout: float,
        attention_dropout: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.pos_embedding = nnx.Param(normal(0.02)(rngs.params(), (1, tokens, channels)))
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

        def block() -> EncoderBlock:
            return EncoderBlock(
                channels, heads, hidden, dropout=dropout, attention_dropout=attention_dropout, rngs=rngs
            )

        self.layers = Named({f"encoder_layer_{index}": block() for index in range(depth)})
        self.ln = LayerNorm(channels, eps=1e-6)

    def __call__(self, x: Array, stages: dict[str, Array] | None = None) -> Array:
        """`[N, tokens, channels]` -> the same shape; `stages` gets the tokens after each block and at the end."""
        seen = {} if stages is None else stages
        x = self.dropout(x + self.pos_embedding[...].astype(x.dtype))
        for name in self.layers.order:
            x = seen[f"encoder.layers.{name}"] = apply_block(getattr(self.layers, name), x)
        x = seen["encoder.ln"] = self.ln(x)
        return x


class VisionTransformer(nnx.Module):
    """Images `[N, image_size, image_size, 3]` -> logits `[N, num_classes]`.

    Args:
        patch: pixels at each side of what becomes a token.
        depth: blocks.
        channels, heads: of the tokens, and of attention.
        hidden: channels inside the MLP of a block.
        dropout: in training, of the embeddings and of what each part of a block puts out.
        attention_dropout: in training, of the weights of attention.
    """

    def __init__(
        self,
        patch: int,
        depth: int,
        channels: int,
        heads: int,
        hidden: int,
        num_classes: int = 1000,
        *,
        image_size: int = 224,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        if image_size % patch:
            raise UserError(
                f"Images of {image_size} by {image_size} pixels have no whole number of patches of {patch}."
            )
        self.image_size = image_size
        deviation = math.sqrt(1 / (3 * patch * patch))
        self.conv_proj = Conv(3, channels, patch, stride=patch, init=normal(deviation), bias_init=zeros, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, channels)))
        self.encoder = Encoder(
            (image_size // patch) ** 2 + 1,
            depth,
            channels,
            heads,
            hidden,
            dropout=dropout,
            attention_dropout=attention_dropout,
            rngs=rngs,
        )
        self.heads = Named({"head": Linear(channels, num_classes, init=zeros, bias_init=zeros, rngs=rngs)})

    def stages(self, x: Array) -> dict[str, Array]:
        """What the PyTorch modules of these paths put out, in order: a map of patches, then tokens, the class first."""
        if x.shape[1:3] != (self.image_size, self.image_size):
            raise UserError(
                f"This model takes images of {self.image_size} by {self.image_size} pixels, not {x.shape[1]} by "
                f"{x.shape[2]}; create it with another image_size, and see "
                "`jaxft.models.classifiers.vit.interpolate_positions`."
            )
        patches = self.conv_proj(x)
        n, channels = x.shape[0], patches.shape[-1]
        classes = jnp.broadcast_to(self.class_token[...].astype(patches.dtype), (n, 1, channels))
        tokens = jnp.concatenate([classes, patches.reshape(n, -1, channels)], 1)
        stages = {"conv_proj": patches}
        self.encoder(tokens, stages)
        return stages

    def features(self, x: Array) -> Array:
        """`[N, H, W, 3]` -> `[N, channels]`, the class token at the end."""
        return self.stages(x)["encoder.ln"][:, 0]

    def __call__(self, x: Array) -> Array:
        return self.heads(self.features(x))


def interpolate_positions(state: Mapping[str, np.ndarray], image_size: int) -> dict[str, np.ndarray]:
    """A state dict of PyTorch's for images of another size: its position embeddings, seen as a map, are resized.

    Bicubic with aligned corners, which is what `torchvision.models.vision_transformer.interpolate_embeddings` does.
    """
    embedding = np.asarray(state[POSITIONS])
    patch = state["conv_proj.weight"].shape[-1]
    side, size = math.isqrt(embedding.shape[1] - 1), image_size // patch
    cells = embedding[:, 1:].reshape(1, side, side, -1)
    weights = cubic_weights(side, size)
    resized = np.einsum("nhwc,ph,qw->npqc", cells, weights, weights).reshape(1, size * size, -1)
    return dict(state) | {POSITIONS: np.concatenate([embedding[:, :1], resized.astype(embedding.dtype)], 1)}


def cubic_weights(length: int, size: int) -> np.ndarray:
    """The matrix `[size, length]` that resizes a row, its ends to its ends; Keys' cubic with a = -0.75, as in PyTorch.

    What lies outside the row is the pixel at its end. Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711.
    """
    places = np.arange(size) * ((length - 1) / max(size - 1, 1))
    weights = np.zeros((size, length))
    for offset in (-1, 0, 1, 2):
        cells = np.floor(places) + offset
        distance = np.abs(places - cells)
        inner = (1.25 * distance - 2.25) * distance**2 + 1
        outer = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
        np.add.at(
            weights,
            (np.arange(size), np.clip(cells, 0, length - 1).astype(int)),
            np.where(distance <= 1, inner, outer),
        )
    return weights


def vit_b_16(
    num_classes: int = 1000,
    *,
    image_size: int = 224,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    rngs: nnx.Rngs,
) -> VisionTransformer:
    return VisionTransformer(
        16,
        12,
        768,
        12,
        3072,
        num_classes,
        image_size=image_size,
        dropout=dropout,
        attention_dropout=attention_dropout,
        rngs=rngs,
    )


def vit_b_32(
    num_classes: int = 1000,
    *,
    image_size: int = 224,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    rngs: nnx.Rngs,
) -> VisionTransformer:
    return VisionTransformer(
        32,
        12,
        768,
        12,
        3072,
        num_classes,
        image_size=image_size,
        dropout=dropout,
        attention_dropout=attention_dropout,
        rngs=rngs,
    )


def vit_l_16(
    num_classes: int = 1000,
    *,
    image_size: int = 224,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    rngs: nnx.Rngs,
) -> VisionTransformer:
    return VisionTransformer(
        16,
        24,
        1024,
        16,
        4096,
        num_classes,
        image_size=image_size,
        dropout=dropout,
        attention_dropout=attention_dropout,
        rngs=rngs,
    )


def vit_l_32(
    num_classes: int = 1000,
    *,
    image_size: int = 224,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    rngs: nnx.Rngs,
) -> VisionTransformer:
    return VisionTransformer(
        32,
        24,
        1024,
        16,
        4096,
        num_classes,
        image_size=image_size,
        dropout=dropout,
        attention_dropout=attention_dropout,
        rngs=rngs,
    )


def vit_h_14(
    num_classes: int = 1000,
    *,
    image_size: int = 224,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    rngs: nnx.Rngs,
) -> VisionTransformer:
    return VisionTransformer(
        14,
        32,
        1280,
        16,
        5120,
        num_classes,
        image_size=image_size,
        dropout=dropout,
        attention_dropout=attention_dropout,
        rngs=rngs,
    )


PRESETS = (vit_b_16, vit_b_32, vit_l_16, vit_l_32, vit_h_14)
