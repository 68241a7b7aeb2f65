"""Distances from a point to the edges of a box: how centered the point is, and the box."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxft.detection.coders import decode_distances
from jaxft.detection.losses import binary_cross_entropy
from jaxft.models.detectors import objectives
from jaxft.models.detectors.types import DistanceCoder


def center_ness(distances: Array) -> Array:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of `[..., 4]` left, top, right, bottom, all positive."""
    near = jnp.minimum(distances[..., :2], distances[..., 2:])
    return jnp.sqrt((near / jnp.maximum(distances[..., :2], distances[..., 2:])).prod(-1))


def center_ness_term(weight: float, logits: Array, wanted: Array, positive: Array, divisor: Array) -> Array:
    """The cross-entropy of center-ness, logits `[N, K, 1]`, averaged over the `positive` rows `[N, K]`."""
    loss = binary_cross_entropy(objectives.of_weight(positive, logits, 0)[..., 0], wanted)
    return objectives.average(objectives.scaled(weight, loss), positive, divisor)


def boxes_around(coder: DistanceCoder, points: Array, distances: Array, sizes: Array) -> Array:
    """Boxes `[N, K, 4]` of distances from points `[N, K, 2]`, cut to the photos' `sizes` if the coder says so."""
    if not coder.clip_border:
        return decode_distances(points, distances)
    return jax.vmap(decode_distances)(points, distances, sizes)
