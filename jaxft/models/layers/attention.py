"""What the families with attention share: the attention itself, its layer in PyTorch, the MLP, relative positions."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import xavier_uniform, zeros

from jaxft.models.layers.activations import gelu
from jaxft.models.layers.containers import Sequential
from jaxft.models.layers.initializers import Init
from jaxft.models.layers.linear import Linear
from jaxft.models.layers.onednn import apart
from jaxft.models.layers.products import wide_product
from jaxft.models.layers.shapes import along_channels


def attend(
    queries: Array, keys: Array, values: Array, *, bias: Array | None = None, dropout: nnx.Dropout | None = None
) -> Array:
    """softmax(queries @ keys + bias) @ values in every head; Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.

    Args:
        queries, keys, values: `[..., tokens, heads, channels]`, the queries scaled already.
        bias: what is added to the logits `[..., heads, tokens, tokens]`; it may lack leading axes.
        dropout: of the weights, in training.

    Returns:
        `[..., tokens, heads * channels]` in the dtype of `values`; logits and softmax are float32 or wider.
    """
    logits = wide_product("...qhc,...khc->...hqk", queries, keys)
    if bias is not None:
        logits = apart(logits)
        logits += bias.reshape((1,) * (logits.ndim - bias.ndim) + bias.shape)
    weights = jax.nn.softmax(logits)
    if dropout is not None:
        weights = dropout(weights)
    mixed = jnp.einsum("...hqk,...khc->...qhc", weights.astype(values.dtype), values)
    return mixed.reshape(*mixed.shape[:-2], -1)


def split_heads(x: Array, heads: int) -> tuple[Array, Array, Array]:
    """Queries, keys and values side by side `[..., tokens, 3 * C]` -> each `[..., tokens, heads, C / heads]`."""
    queries, keys, values = (part.reshape(*part.shape[:-1], heads, -1) for part in jnp.split(x, 3, -1))
    return queries, keys, values


class MultiheadAttention(nnx.Module):
    """Self-attention as `torch.nn.MultiheadAttention(channels, heads, batch_first=True)`; `dropout` of its weights."""

    def __init__(self, channels: int, heads: int, *, dropout: float, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.in_proj_kernel = nnx.Param(xavier_uniform()(rngs.params(), (channels, 3 * channels)))
        self.in_proj_bias = nnx.Param(jnp.zeros(3 * channels))
        self.out_proj = Linear(channels, channels, bias_init=zeros, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.lora: nnx.Module | None = None  # of the joint projection; see `layers/low_rank.py`

    def __call__(self, x: Array) -> Array:
        """`[N, tokens, channels]` -> the same shape."""
        projected = x @ self.in_proj_kernel[...]
        projected += along_channels(self.in_proj_bias[...].astype(projected.dtype), projected)
        if self.lora is not None:
            projected += self.lora(x).astype(projected.dtype)
        queries, keys, values = split_heads(projected, self.heads)
        queries *= queries.shape[-1] ** -0.5
        return self.out_proj(attend(queries, keys, values, dropout=self.dropout))


def mlp(channels: int, hidden: int, *, dropout: float, init: Init, bias_init: Init, rngs: nnx.Rngs) -> Sequential:
    """`torchvision.ops.MLP(channels, [hidden, channels], activation_layer=GELU)`."""
    linear = partial(Linear, init=init, bias_init=bias_init, rngs=rngs)
    return Sequential(
        [
            linear(channels, hidden),
            gelu,
            nnx.Dropout(dropout, rngs=rngs),
            linear(hidden, channels),
            nnx.Dropout(dropout, rngs=rngs),
        ]
    )


def relative_position_index(height: int, width: int) -> Array:
    """For each two pixels of a window, which row of a table `[(2 * height - 1) * (2 * width - 1), ...]` is theirs.

    `[height * width, height * width]`; rows are ordered by the vertical distance from the second to the first, then by
    the horizontal one.
    """
    rows, columns = (axis.reshape(-1) for axis in jnp.mgrid[:height, :width])
    down = rows[:, None] - rows[None] + height - 1
    right = columns[:, None] - columns[None] + width - 1
    return (down * (2 * width - 1) + right).astype(jnp.int32)


def position_bias(table: Array, index: Array) -> Array:
    """A row a relative position `[positions, heads]` -> what the logits get `[1, heads, tokens, tokens]`."""
    tokens = round(index.size**0.5)
    return jnp.moveaxis(table[index.reshape(tokens, tokens)], -1, 0)[None]
