"""One gradient of the maps for all heads that look at them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.models.detectors.roi.in_turn import Maps, extract_in_turn
from jaxft.models.detectors.roi.regions import extract
from jaxft.models.detectors.types import RoIExtractor
from tests.detection import cases

EXTRACTOR = RoIExtractor(3, (4, 8))
LOOKS = 3


def together(maps: Maps, boxes: Array) -> Array:
    used = jnp.ones(boxes.shape[:2], bool)
    return sum((jnp.sin(i + extract(EXTRACTOR, maps, boxes + i, used)).sum() for i in range(LOOKS)), jnp.zeros(()))


def in_turn(maps: Maps, boxes: Array) -> Array:
    used, total = jnp.ones(boxes.shape[:2], bool), jnp.zeros(())
    for i in range(LOOKS):
        features, maps = extract_in_turn(EXTRACTOR, maps, boxes + i, used)
        total += jnp.sin(i + features).sum()
    return total


def shapes(height: int, width: int, channels: int) -> list[tuple[int, ...]]:
    """Of two levels that are looked at, and one that is not."""
    return [(2, height // stride, width // stride, channels) for stride in (4, 8, 16)]


def test_the_gradient_is_that_of_all_looks() -> None:
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        boxes = jnp.asarray(cases.boxes(0, 10).reshape(2, 5, 4), jnp.float64)
        maps = tuple(jnp.asarray(random.normal(size=shape)) for shape in shapes(128, 160, 3))
        (expected, wanted), (value, gradient) = (
            jax.jit(jax.value_and_grad(look, (0, 1)))(maps, boxes) for look in (together, in_turn)
        )
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert not wanted[1].any()
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_there_are_not_as_many_gradients_as_looks() -> None:
    maps = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes(800, 1344, 16))
    size = 4 * sum(int(np.prod(one.shape)) for one in maps)

    def needed(look: Callable[[Maps, Array], Array]) -> float:
        """Temporary memory in sizes of the maps."""
        program = jax.jit(jax.grad(look)).lower(maps, jax.ShapeDtypeStruct((2, 4, 4), jnp.float32))
        return program.compile().memory_analysis().temp_size_in_bytes / size

    assert needed(in_turn) < 2.3 < needed(together)
