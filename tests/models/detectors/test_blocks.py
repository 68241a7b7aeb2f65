"""Regions in blocks are what they are together, and blocks without a valid one are left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.models.detectors.roi.blocks import BLOCK, in_blocks


@pytest.mark.parametrize("count", [5, BLOCK, BLOCK + 1, 3 * BLOCK, 1000])
def test_regions_in_blocks(count: int) -> None:
    random = np.random.default_rng(count)
    boxes = jnp.asarray(random.uniform(0, 99, (2, count, 4)), jnp.float32)
    valid = jnp.arange(count)[None] < jnp.array([[count // 4], [count // 3]])
    looked: list[int] = []

    def look(boxes: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
        jax.debug.callback(lambda rows: looked.append(int(rows)), valid.sum())
        rows = jnp.where(valid.reshape(-1, 1), boxes.reshape(-1, 4), 0)
        return rows, rows.sum(-1)

    found = in_blocks(look, boxes, valid)
    jax.effects_barrier()
    assert sum(looked) == count // 4 + count // 3
    assert len(looked) == -(-(count // 3) // -(-count // -(-count // BLOCK)))
    for one, other in zip(found, look(boxes, valid), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_blocks_within_a_program() -> None:
    boxes, valid = jnp.ones((3, 300, 4)), jnp.zeros((3, 300), bool).at[1, 0].set(True)
    (found,) = jax.jit(lambda b, v: in_blocks(lambda b, v: (b.sum(-1).reshape(-1, 1),), b, v))(boxes, valid)
    assert found.shape == (900, 1)
    rows = np.asarray(found).reshape(3, 300)
    assert rows[:, :100].min() == 4
    assert rows[:, 100:].max() == 0
