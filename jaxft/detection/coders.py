"""Boxes as what a head predicts, and back: deltas, distances to the edges, top-bottom-left-right."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.detection.boxes import centers, clamp, clip

Four = Sequence[float]


def _four(values: Four | float, like: Array) -> Array:
    """Four constants (or one, four times) with as many axes as `like` `[..., 4]`."""
    return jnp.broadcast_to(jnp.asarray(values, like.dtype), (4,)).reshape((1,) * (like.ndim - 1) + (4,))


def encode_deltas(
    boxes: Array,
    targets: Array,
    means: Four = (0.0, 0.0, 0.0, 0.0),
    stds: Four = (1.0, 1.0, 1.0, 1.0),
    *,
    smallest: float = 1e-6,
) -> Array:
    """dx, dy, dw, dh `[..., 4]` that turn `boxes` into `targets` (both `[..., 4]`), less `means`, over `stds`.

    Girshick et al. 2013, https://arxiv.org/abs/1311.2524, appendix C. torchvision's weights w are stds 1 / w. Sides
    below `smallest` count as that many pixels, so that padded rows give finite numbers.
    """
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], smallest)
    target_sides = jnp.maximum(targets[..., 2:] - targets[..., :2], smallest)
    shift = (centers(targets) - centers(boxes)) / sides
    deltas = jnp.concatenate([shift, jnp.log(target_sides / sides)], -1)
    return (deltas - _four(means, deltas)) / _four(stds, deltas)


def decode_deltas(
    boxes: Array,
    deltas: Array,
    means: Four = (0.0, 0.0, 0.0, 0.0),
    stds: Four = (1.0, 1.0, 1.0, 1.0),
    *,
    size: Array | None = None,
    max_ratio: float = 16 / 1000,
    clamp_below: bool = True,
    add_ctr_clamp: bool = False,
    ctr_clamp: float = 32,
) -> Array:
    """The boxes `[..., 4]` that `deltas` `[..., 4]` make of `boxes` (same number of axes; broadcast).

    Args:
        means, stds: those of `encode_deltas`.
        size: `[2]` height, width; boxes are cut to it where it is given.
        max_ratio: |dw| and |dh| are at most |log(max_ratio)|; torchvision's log(1000 / 16) is the default.
        clamp_below: whether that bounds shrinking too (MMDetection) or growing only (torchvision).
        add_ctr_clamp, ctr_clamp: bounds the shift of the center in pixels, and growing only (YOLOF).
    """
    deltas = deltas * _four(stds, deltas) + _four(means, deltas)
    sides = boxes[..., 2:] - boxes[..., :2]
    shift, bound = sides * deltas[..., :2], float(abs(np.log(max_ratio)))
    if add_ctr_clamp:
        shift = clamp(shift, -ctr_clamp, ctr_clamp)
    growth = clamp(deltas[..., 2:], -bound if clamp_below and not add_ctr_clamp else None, bound)
    middle, half = centers(boxes) + shift, sides * jnp.exp(growth) * 0.5
    decoded = jnp.concatenate([middle - half, middle + half], -1)
    return decoded if size is None else clip(decoded, size)


def encode_distances(points: Array, boxes: Array, limit: float | None = None, eps: float = 0.1) -> Array:
    """Left, top, right, bottom `[..., 4]` from `points` `[..., 2]` (x, y) to the edges of `boxes` `[..., 4]`.

    With a `limit` they are cut to 0..limit - eps (distribution focal loss needs them below the last bin).
    """
    distances = jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], -1)
    return distances if limit is None else clamp(distances, 0.0, limit - eps)


def decode_distances(points: Array, distances: Array, size: Array | None = None) -> Array:
    """Boxes `[..., 4]` from `points` `[..., 2]` and `distances` `[..., 4]`; cut to `size` `[2]` where it is given."""
    boxes = jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], -1)
    return boxes if size is None else clip(boxes, size)


def encode_tblr(
    priors: Array, boxes: Array, normalizer: Four | float = 4.0, normalize_by_wh: bool = True, *, smallest: float = 1e-6
) -> Array:
    """Top, bottom, left, right `[..., 4]` from the centers of `priors` `[..., 4]` to the edges of `boxes` `[..., 4]`,
    over the priors' height (top, bottom) and width (left, right) and over `normalizer`.

    Zhu et al. 2019 (FSAF), https://arxiv.org/abs/1903.00621. Sides below `smallest` count as that many pixels.
    """
    near, far = centers(priors) - boxes[..., :2], boxes[..., 2:] - centers(priors)
    if normalize_by_wh:
        sides = jnp.maximum(priors[..., 2:] - priors[..., :2], smallest)
        near, far = near / sides, far / sides
    tblr = jnp.stack([near[..., 1], far[..., 1], near[..., 0], far[..., 0]], -1)
    return tblr / _four(normalizer, tblr)


def decode_tblr(
    priors: Array,
    tblr: Array,
    normalizer: Four | float = 4.0,
    normalize_by_wh: bool = True,
    *,
    size: Array | None = None,
) -> Array:
    """The boxes `[..., 4]` that `encode_tblr` would encode so; cut to `size` `[2]` where it is given."""
    tblr = tblr * _four(normalizer, tblr)
    near, far = tblr[..., 2::-2], tblr[..., 3::-2]
    if normalize_by_wh:
        sides = priors[..., 2:] - priors[..., :2]
        near, far = near * sides, far * sides
    boxes = jnp.concatenate([centers(priors) - near, centers(priors) + far], -1)
    return boxes if size is None else clip(boxes, size)
