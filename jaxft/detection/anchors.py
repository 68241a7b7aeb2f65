"""Anchors and points of a feature map, in pixels of the image.

A map has up to a million anchors: a compiled program has those of one cell as a constant, and makes the others itself.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Stride = int | tuple[int, int]


def _stride(stride: Stride) -> tuple[int, int]:
    """Pixels a cell, (height, width)."""
    return (stride, stride) if isinstance(stride, int) else stride


def octave_scales(octave_base_scale: float, scales_per_octave: int) -> tuple[float, ...]:
    """RetinaNet's scales: octave_base_scale * 2^(i / scales_per_octave)."""
    return tuple(octave_base_scale * 2 ** (i / scales_per_octave) for i in range(scales_per_octave))


def base_anchors(
    base_size: float,
    scales: Sequence[float],
    ratios: Sequence[float],
    *,
    center_offset: float = 0.0,
    center: tuple[float, float] | None = None,
    scale_major: bool = True,
    round_: bool = False,
) -> np.ndarray:
    """Anchors of the first cell, `[A, 4]` float32.

    Args:
        base_size: pixels; a side is base_size * scale * sqrt(ratio) (height) or / sqrt(ratio) (width). torchvision's
            sizes are `scales` with a base size of 1.
        ratios: height / width.
        center_offset: the center as a share of the base size.
        center: x, y of the center in pixels, instead.
        scale_major: whether the scales of one ratio follow each other (all of MMDetection's but SSD, torchvision).
        round_: whether corners are whole pixels, halves to the even one (torchvision).
    """
    root = np.sqrt(np.asarray(ratios, np.float32))
    factors = np.asarray(scales, np.float32)
    outer = (lambda r: r[:, None] * factors[None]) if scale_major else (lambda r: factors[:, None] * r[None])
    width, height = (np.float32(base_size) * outer(r).ravel() for r in (1 / root, root))
    x, y = (center_offset * base_size,) * 2 if center is None else center
    middle, half = np.array([x, y, x, y], np.float32), np.stack([width, height], -1) * np.float32(0.5)
    anchors = middle + np.concatenate([-half, half], -1)
    return np.round(anchors) if round_ else anchors


def grid_anchors(base: np.ndarray, map_size: tuple[int, int], stride: Stride) -> Array:
    """`base` `[A, 4]` at every cell of a map: `[h * w * A, 4]` float32, ordered by row, column, anchor.

    `stride` is one number or (height, width): torchvision's is image // map, which may differ between the two.
    """
    down, across = _stride(stride)
    y = jax.lax.broadcasted_iota(jnp.int32, (*map_size, 1), 0) * down
    x = jax.lax.broadcasted_iota(jnp.int32, (*map_size, 1), 1) * across
    # Whole numbers up to here, and one float32 sum a corner: no compiler can round otherwise than NumPy does.
    shifts = jnp.stack([x, y, x, y], -1).astype(jnp.float32)
    return (shifts + base.astype(np.float32)[None, None]).reshape(-1, 4)


def grid_points(map_size: tuple[int, int], stride: Stride, offset: float = 0.5) -> Array:
    """x, y of every cell `[h * w, 2]` float32, ordered by row and column: (index + offset) * stride."""
    y, x = (
        jnp.asarray((np.arange(length) + offset) * step, jnp.float32)
        for length, step in zip(map_size, _stride(stride), strict=True)
    )
    grid = [jnp.broadcast_to(x[None], map_size), jnp.broadcast_to(y[:, None], map_size)]
    return jnp.stack(grid, -1).reshape(-1, 2)


def valid_flags(
    map_size: tuple[int, int], stride: Stride, size: Array, anchors_per_cell: int = 1, divisor: int = 1
) -> Array:
    """Which anchors of a map lie in cells of the photo itself, not of the padding beyond: bool `[h * w * A]`.

    `size` `[2]` is the photo's (height, width), rounded up to `divisor` as MMDetection pads each image of a batch.
    """
    cells = [
        jnp.arange(length) < -(-padded // step)
        for length, step, padded in zip(map_size, _stride(stride), -(-size // divisor) * divisor, strict=True)
    ]
    return jnp.repeat((cells[0][:, None] & cells[1][None]).reshape(-1), anchors_per_cell)


def inside_flags(anchors: Array, size: Array, allowed_border: float) -> Array:
    """Which `anchors` `[A, 4]` reach at most `allowed_border` pixels over an image of `size` `[2]`: bool `[A]`.

    All of them where `allowed_border` is negative.
    """
    if allowed_border < 0:
        return jnp.ones(anchors.shape[0], bool)
    height, width = size[0] + allowed_border, size[1] + allowed_border
    low = (anchors[:, 0] >= -allowed_border) & (anchors[:, 1] >= -allowed_border)
    return low & (anchors[:, 2] < width) & (anchors[:, 3] < height)
