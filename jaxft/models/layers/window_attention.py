"""Attention inside the windows of an image: that of Swin Transformer, and the cosine attention of its version 2.

Liu et al. 2021, https://arxiv.org/abs/2103.14030, and 2021, https://arxiv.org/abs/2111.09883.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.nn.initializers import normal, zeros

from jaxft.models.layers.attention import attend, position_bias, relative_position_index, split_heads
from jaxft.models.layers.containers import Buffer, Sequential, Wide
from jaxft.models.layers.linear import Linear
from jaxft.models.layers.shapes import along_channels

LIMIT = math.log(100)  # of version 2's logit_scale
Pair = tuple[int, int]
small = normal(0.02)


class WindowAttention(nnx.Module):
    """Attention among the pixels of each window, with a trained bias for each relative position.

    Args:
        channels, heads: of the attention.
        window: pixels at each side of a window.
        shift: by so many pixels the windows lie further down and right.
        dropout, attention_dropout: of what it puts out, and of the weights, in training.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        shift: int,
        dropout: float,
        attention_dropout: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = Linear(channels, 3 * channels, init=small, bias_init=zeros, rngs=rngs)
        self.proj = Linear(channels, channels, init=small, bias_init=zeros, rngs=rngs)
        self.relative_position_bias_table = Wide(small(rngs.params(), ((2 * window - 1) ** 2, heads)))
        self.relative_position_index = Buffer(relative_position_index(window, window).reshape(-1))
        self.attention_dropout = nnx.Dropout(attention_dropout, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, channels]` -> the same shape."""
        bias = position_bias(self.relative_position_bias_table[...], self.relative_position_index[...])

        def mixed(x: Array, mask: Array | float) -> Array:
            queries, keys, values = split_heads(self.qkv(x), self.heads)
            queries *= queries.shape[-1] ** -0.5
            return attend(queries, keys, values, bias=bias + mask, dropout=self.attention_dropout)

        return self.dropout(self.proj(in_windows(mixed, x, self.window, self.shift)))


class CosineWindowAttention(nnx.Module):
    """The attention of version 2: its logits are cosines times a trained factor, and its keys have no bias.

    The bias of a relative position is what the MLP `cpb_mlp` makes of its coordinates. Arguments as of the other.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        shift: int,
        dropout: float,
        attention_dropout: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = Linear(channels, 3 * channels, init=small, bias_init=zeros, rngs=rngs)
        self.proj = Linear(channels, channels, init=small, bias_init=zeros, rngs=rngs)
        self.logit_scale = Wide(jnp.full((heads, 1, 1), math.log(10)))
        hidden = Linear(2, 512, init=small, bias_init=zeros, rngs=rngs)
        self.cpb_mlp = Sequential([hidden, nnx.relu, Linear(512, heads, bias=False, init=small, rngs=rngs)])
        self.relative_coords_table = Buffer(jnp.asarray(relative_coordinates(window), jnp.float32))
        self.relative_position_index = Buffer(relative_position_index(window, window).reshape(-1))
        self.attention_dropout = nnx.Dropout(attention_dropout, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def _projected(self, x: Array) -> Array:
        """What `qkv` makes of `x`, but that the bias of the keys counts as 0, whatever it holds."""
        assert self.qkv.bias is not None
        queries, _, values = jnp.split(self.qkv.bias[...], 3)
        bias = jnp.concatenate([queries, jnp.zeros_like(queries), values])
        y = x @ self.qkv.kernel[...]
        y += along_channels(bias.astype(y.dtype), y)
        return y if self.qkv.lora is None else y + self.qkv.lora(x).astype(y.dtype)

    def __call__(self, x: Array) -> Array:
        """`[N, H, W, channels]` -> the same shape."""
        table = self.cpb_mlp(self.relative_coords_table[...]).reshape(-1, self.heads)
        bias = 16 * jax.nn.sigmoid(position_bias(table, self.relative_position_index[...]))
        scale = self.logit_scale[...].reshape(1, 1, 1, self.heads, 1)
        scale = jnp.exp(jnp.where(scale > LIMIT, LIMIT, scale))

        def mixed(x: Array, mask: Array | float) -> Array:
            queries, keys, values = split_heads(self._projected(x), self.heads)
            queries, keys = (unit(queries) * scale).astype(x.dtype), unit(keys).astype(x.dtype)
            return attend(queries, keys, values, bias=bias + mask, dropout=self.attention_dropout)

        return self.dropout(self.proj(in_windows(mixed, x, self.window, self.shift)))


def unit(x: Array) -> Array:
    """Vectors of length 1 along the last axis, in float32 or wider; `torch.nn.functional.normalize`.

    Pixels that pad an image have keys of length 0; the bound inside the root keeps their gradient finite.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return wide * jax.lax.rsqrt(jnp.maximum(jnp.square(wide).sum(-1, keepdims=True), 1e-24))


def relative_coordinates(window: int) -> np.ndarray:
    """For each relative position of two pixels of a window, its log-spaced coordinates `[1, rows, columns, 2]`."""
    distance = np.arange(1 - window, window) / (window - 1) * 8
    spaced = np.sign(distance) * np.log2(np.abs(distance) + 1) / 3
    return np.stack(np.meshgrid(spaced, spaced, indexing="ij"), -1)[None]


def in_windows(mix: Callable[[Array, Array | float], Array], x: Array, window: int, shift: int) -> Array:
    """Cuts `x` `[N, H, W, C]` into windows, applies `mix` in each, and puts them together again.

    `mix` gets `[N, windows, pixels, C]` and a mask to add to its logits `[windows, heads, pixels, pixels]`. Pixels of
    zeros pad the image to a whole number of windows. It is shifted around its ends, so that the last windows hold
    pixels of both ends, which the mask keeps apart; where one window is as long as the image nothing is shifted.
    """
    n, *size, channels = x.shape
    rows, columns = (-(-length // window) for length in size)
    padding = rows * window - size[0], columns * window - size[1]
    shifts = (shift if rows > 1 else 0, shift if columns > 1 else 0)
    x = jnp.pad(x, ((0, 0), (0, padding[0]), (0, padding[1]), (0, 0)))
    x = jnp.roll(x, (-shifts[0], -shifts[1]), (1, 2))
    x = x.reshape(n, rows, window, columns, window, channels).swapaxes(2, 3)
    y = mix(x.reshape(n, rows * columns, window * window, channels), window_mask((rows, columns), window, shifts))
    y = y.reshape(n, rows, columns, window, window, channels).swapaxes(2, 3)
    y = jnp.roll(y.reshape(n, rows * window, columns * window, channels), shifts, (1, 2))
    return y[:, : size[0], : size[1]]


def window_mask(count: Pair, window: int, shifts: Pair) -> Array | float:
    """-100 where two pixels of a window were not neighbors before the shift `[windows, 1, pixels, pixels]`, else 0."""
    if shifts == (0, 0):
        return 0.0

    def parts(count: int, shift: int) -> np.ndarray:
        """For each row: 0 before the last window, and in it 1, or 2 where it came from the start."""
        return np.digitize(np.arange(count * window), [(count - 1) * window, count * window - shift])

    labels = 3 * parts(count[0], shifts[0])[:, None] + parts(count[1], shifts[1])[None]
    labels = labels.reshape(count[0], window, count[1], window).swapaxes(1, 2).reshape(-1, 1, window * window)
    return jnp.where(jnp.asarray(labels[..., None]) == jnp.asarray(labels[..., None, :]), 0.0, -100.0)
