"""A dense head on two devices: each has its own images, unless a layer needs the statistics of the whole batch."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.detector import dense_outputs
from jaxft.models.detectors.types import AnchorGenerator, Norm
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import filled, modules, values
from jaxft.models.streams import initial_rngs

MAPS = [np.random.default_rng(side).normal(size=(4, side, side, 8)).astype(np.float32) for side in (4, 2)]


@pytest.mark.parametrize(
    ("norm", "mode", "alone"), [(None, "train", True), ("BN", "train", False), ("BN", "eval", True)]
)
def test_levels_of_images(norm: Any, mode: str, alone: bool) -> None:
    head = RetinaHead(
        2,
        8,
        feat_channels=8,
        stacked_convs=1,
        norm_cfg=Norm(norm) if norm else None,
        anchor_generator=AnchorGenerator((8, 16), (1.0,), (4.0,)),
        rngs=initial_rngs(0),
    )
    getattr(head, mode)()

    def run(arrays: Any, maps: Any) -> Any:
        model = filled(head, arrays)
        return dense_outputs(model, maps), [norm.mean[...] for _, norm in modules(model) if isinstance(norm, BatchNorm)]

    expected = jax.jit(run)(values(head), MAPS)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    maps = jax.device_put(MAPS, NamedSharding(mesh, PartitionSpec("data")))
    arrays = jax.device_put(values(head), NamedSharding(mesh, PartitionSpec()))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert ("shard_map" in str(jax.make_jaxpr(run)(arrays, maps))) == alone
        program = jax.jit(run).lower(arrays, maps).compile()
    for found, wanted in zip(*map(jax.tree.leaves, (program(arrays, maps), expected)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
