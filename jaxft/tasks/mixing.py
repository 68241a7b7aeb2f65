"""Examples of a batch mixed with each other, as `jaxft.data.mixing` has drawn it: on the device."""

import jax.numpy as jnp
from jax import Array


def mixed_images(images: Array, mix: Array) -> Array:
    """Each image `[N, H, W, C]` with the one before it in the batch, the first with the last, by `mix` `[N, 6]`."""
    share, left, top, right, bottom = (mix[:, column, None, None, None] for column in range(1, 6))
    rows = jnp.arange(images.shape[1], dtype=mix.dtype)[None, :, None, None]
    columns = jnp.arange(images.shape[2], dtype=mix.dtype)[None, None, :, None]
    others = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    own = jnp.where(others, 0, share).astype(images.dtype)
    return images * own + jnp.roll(images, 1, 0) * (1 - own)


def mixed_targets(targets: Array, mix: Array) -> Array:
    """The targets `[N, T]` of such images."""
    own = mix[:, :1].astype(targets.dtype)
    return targets * own + jnp.roll(targets, 1, 0) * (1 - own)
