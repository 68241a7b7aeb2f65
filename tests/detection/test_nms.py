"""NMS against torchvision's, in the forms of the CPU and of accelerators."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision.ops

from jaxft.detection import nms as module
from jaxft.detection.nms import nms
from tests.detection import cases


def expected(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, valid: np.ndarray, threshold: float) -> list:
    """Group by group, without the shift of coordinates that costs precision; equal scores in order."""
    kept = []
    for group in np.unique(groups[valid]):
        rows = np.flatnonzero(valid & (groups == group))
        kept += rows[torchvision.ops.nms(torch.tensor(boxes[rows]), torch.tensor(scores[rows]), threshold)].tolist()
    return sorted(kept, key=lambda row: (-scores[row], row))


FORMS = {
    "cpu": module.CPU,
    "accelerator": module.ACCELERATOR,
    "accelerator, in several tiles": module.ACCELERATOR._replace(tile=64),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("count", "limit"), [(600, 600), (600, 10), (40, 40)])
def test_like_torchvision(count: int, limit: int, form: str) -> None:
    ours = jax.jit(lambda *arrays: module._nms(FORMS[form], arrays[-1], limit, *arrays[:-1]))
    for seed, largest, threshold in [(0, 60, 0.3), (1, 100, 0.7), (2, 100, 0.3)]:
        random = np.random.default_rng(seed)
        boxes, scores = cases.boxes(seed, count, largest=largest), random.uniform(size=count).astype(np.float32)
        groups, valid = random.integers(0, 3, count).astype(np.int32), random.uniform(size=count) < 0.8
        scores[: count // 2] = np.round(scores[: count // 2], 1)  # ties
        boxes[3] = boxes[5]
        boxes[6] = [9, 9, 9, 9]
        kept = expected(boxes, scores, groups, valid, threshold)
        index, there = ours(jnp.array(boxes), jnp.array(scores), jnp.array(groups), jnp.array(valid), threshold)
        assert index.shape == there.shape == (limit,)
        assert np.array(index)[there].tolist() == kept[:limit]
        assert np.array(there).sum() == min(limit, len(kept))
        assert not np.array(index)[~there].any()


@pytest.mark.parametrize("form", FORMS)
def test_a_long_chain(form: str) -> None:
    """Each box overlaps the next: the first goes on suppressing every other one, across tiles."""
    count = 600  # the shapes of the tests above
    low = np.arange(count, dtype=np.float32)[:, None] * 4
    boxes = np.concatenate([low, low * 0, low + 10, low * 0 + 10], 1)
    scores = np.linspace(1, 0.5, count).astype(np.float32)
    none, valid = np.zeros(count, np.int32), np.ones(count, bool)
    arrays = (jnp.array(boxes), jnp.array(scores), jnp.array(none), jnp.array(valid))
    index, there = jax.jit(partial(module._nms, FORMS[form], 0.4, count))(*arrays)
    assert np.array(index)[there].tolist() == expected(boxes, scores, none, valid, 0.4) == list(range(0, count, 2))


def test_nothing_valid_and_a_batch() -> None:
    boxes = jnp.array([cases.boxes(seed, 300) for seed in range(3)])
    scores = jax.random.uniform(jax.random.key(0), (3, 300))
    valid = jnp.array([True, False, True])[:, None] & jnp.ones((3, 300), bool)
    groups = jnp.zeros((3, 300), jnp.int32)
    index, there = jax.jit(jax.vmap(lambda *arrays: nms(*arrays, 0.5, 50)))(boxes, scores, groups, valid)
    assert not there[1].any()
    assert not index[1].any()
    for row in (0, 2):
        arrays = (np.array(part[row]) for part in (boxes, scores, groups, valid))
        assert np.array(index[row])[there[row]].tolist() == expected(*arrays, 0.5)[:50]


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
def test_images_on_their_devices(form: str) -> None:
    boxes = jnp.array([cases.boxes(seed, 40) for seed in range(2)])
    scores = jax.random.uniform(jax.random.key(0), (2, 40))

    def best(boxes: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        return module._nms(FORMS[form], 0.3, 20, boxes, scores, jnp.zeros(40, jnp.int32), jnp.ones(40, bool))

    images, mesh = jax.sharding.PartitionSpec("images"), jax.sharding.Mesh(np.array(jax.devices()[:2]), ("images",))
    spread = jax.shard_map(jax.vmap(best), mesh=mesh, in_specs=images, out_specs=images)
    for ours, wanted in zip(jax.jit(spread)(boxes, scores), jax.jit(jax.vmap(best))(boxes, scores), strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_steps_on_accelerators() -> None:
    """The one loop whose number of steps depends on the boxes is that over tiles."""
    arrays = jnp.zeros((3000, 4)), jnp.zeros(3000), jnp.zeros(3000, jnp.int32), jnp.ones(3000, bool)
    text = str(jax.make_jaxpr(partial(module._nms, module.ACCELERATOR, 0.5, 100))(*arrays))
    assert text.count("while[") == 1
    for platform in ("cuda", "tpu"):
        lowered = jax.jit(lambda *arrays: nms(*arrays, 0.5, 100)).trace(*arrays).lower(lowering_platforms=(platform,))
        assert lowered.as_text().count("stablehlo.while") == 2  # tiles, and words of a tile
