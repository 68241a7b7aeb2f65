"""Each device works on its own images, whatever the mesh; without one, or without equal parts, nothing is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.models.layers.per_image import per_image

IMAGES = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
WEIGHTS = np.arange(9, dtype=np.float32).reshape(3, 3) / 9


def largest(weights: Array, images: Array) -> tuple[Array, Array]:
    """A weighted sum of each image's two best rows; and how many images the function is given at once."""

    def function(images: Array) -> tuple[Array, Array]:
        best, _ = jax.lax.top_k((images @ weights).sum(-1), 2)
        inner = per_image(lambda best: best * 2, best)  # a call inside of another
        return inner, jnp.full(len(images), len(images))

    return per_image(function, images)


def loss(weights: Array, images: Array) -> tuple[Array, Array]:
    best, given = largest(weights, images)
    return (best**2).sum(), given


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)])
def test_devices_keep_their_images(shape: tuple[int, int]) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "fsdp"))
    images = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    weights = jax.device_put(WEIGHTS, NamedSharding(mesh, PartitionSpec()))
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = gradient.lower(weights, images).compile()
    (value, given), found = program(weights, images)
    (expected, alone), wanted = gradient(WEIGHTS, IMAGES)
    assert (given.tolist(), alone.tolist()) == ([2] * 4, [4] * 4)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    text = program.as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text


def test_images_that_cannot_be_cut_equally_stay_together() -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        _, given = jax.jit(largest)(WEIGHTS, IMAGES[:3])
    assert given.tolist() == [3] * 3
