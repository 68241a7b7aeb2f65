"""Maps that several heads look at one after the other, and one gradient that all of them add to."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.models.detectors.roi.regions import extract
from jaxft.models.detectors.types import RoIExtractor

Maps = tuple[Array, ...]


def extract_in_turn(extractor: RoIExtractor, maps: Sequence[Array], boxes: Array, used: Array) -> tuple[Array, Maps]:
    """What `extract` gives, and the maps again, for the next that looks at them.

    The gradient of the maps then comes from the last of them to the first, and each adds its own before the one ahead
    makes another. Without that there would be one of the maps' whole size for each, all at a time.
    """
    return _in_turn(extractor, tuple(maps), boxes, used)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_turn(extractor: RoIExtractor, maps: Maps, boxes: Array, used: Array) -> tuple[Array, Maps]:
    return extract(extractor, maps, boxes, used), maps


def _forward(
    extractor: RoIExtractor, maps: Maps, boxes: Array, used: Array
) -> tuple[tuple[Array, Maps], tuple[Maps, Array, Array]]:
    return _in_turn(extractor, maps, boxes, used), (maps, boxes, used)


def _backward(
    extractor: RoIExtractor, saved: tuple[Maps, Array, Array], gradients: tuple[Array, Maps]
) -> tuple[Maps, Array, np.ndarray]:
    (maps, boxes, used), (by_features, by_next) = saved, gradients
    # 0 for each image, from the next one's gradient: this one cannot be made before that, nor all before any is added.
    nothing = jnp.stack([gradient[:, 0, 0, 0] > jnp.inf for gradient in by_next]).any(0).astype(by_features.dtype)
    by_features += jnp.repeat(nothing, used.shape[1])[:, None, None, None]
    _, transposed = jax.vjp(lambda maps: extract(extractor, maps, boxes, used), maps)
    (own,) = transposed(by_features)
    return jax.tree.map(jnp.add, by_next, own), jnp.zeros_like(boxes), np.zeros(used.shape, jax.dtypes.float0)


_in_turn.defvjp(_forward, _backward)
