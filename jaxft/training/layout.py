"""The mesh of devices and who holds what: the one place that knows, one code path from one CPU core to a pod."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.errors import UserError

AXIS = "data"
ArrayDict = dict[str, jax.Array]


@dataclass(frozen=True)
class Layout:
    """All devices of all processes in one row named `data`.

    Attributes:
        fsdp: whether parameters, statistics and optimizer state are cut over the devices instead of copied to each.
    """

    mesh: Mesh
    fsdp: bool = False

    @property
    def copied(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def sharding(self, shape: Sequence[int]) -> NamedSharding:
        """Where a leaf of the training state lives: copied, or cut along its largest axis that can be cut evenly."""
        even = [axis for axis, size in enumerate(shape) if size % self.mesh.size == 0 and size > 1]
        if not self.fsdp or self.mesh.size == 1 or not even:
            return self.copied
        largest = max(even, key=lambda axis: shape[axis])
        return NamedSharding(
            self.mesh, PartitionSpec(*[AXIS if axis == largest else None for axis in range(len(shape))])
        )

    def shardings(self, tree: Any) -> Any:
        """`sharding` for every leaf of a tree of arrays or shapes."""
        return jax.tree.map(lambda leaf: self.sharding(leaf.shape), tree)

    def abstract(self, tree: Any) -> Any:
        """Shapes, types and shardings of a tree: what is to be made, or restored, here."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharding(leaf.shape)), tree
        )

    def place(self, arrays: Mapping[str, np.ndarray]) -> ArrayDict:
        """Arrays of the host where they belong; a device gets its own part of what is cut and no more."""
        return {
            path: jax.make_array_from_callback(array.shape, self.sharding(array.shape), array.__getitem__)
            for path, array in arrays.items()
        }

    def gathered(self, arrays: Mapping[str, jax.Array]) -> ArrayDict:
        """Leaves of the state as a traced model uses them: whole on every device.

        So the weights of one layer after another travel to the examples and not the other way round; and gradients come
        back in the parts that the devices hold.
        """
        own = {path: self.sharding(array.shape) for path, array in arrays.items()}
        return {
            path: array if own[path] == self.copied else _whole(array, self.copied, own[path])
            for path, array in arrays.items()
        }

    def batch(self, batch: Mapping[str, np.ndarray]) -> ArrayDict:
        """This process's examples of a batch as part of arrays whose examples lie on all devices of all processes."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}

    def abstract_batch(self, example: Mapping[str, Any], size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes, types and shardings of a batch of so many examples like this one, over all processes."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return {
            name: jax.ShapeDtypeStruct(
                (size, *value.shape), jax.dtypes.canonicalize_dtype(value.dtype), sharding=sharding
            )
            for name, value in example.items()
        }

    def bytes_per_device(self, tree: Any) -> int:
        """What a device holds of a tree of arrays or shapes."""
        return sum(
            math.prod(self.sharding(leaf.shape).shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _whole(array: jax.Array, copied: NamedSharding, own: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, copied)


def _whole_forward(array: jax.Array, copied: NamedSharding, own: NamedSharding) -> tuple[jax.Array, None]:
    return _whole(array, copied, own), None


def _whole_backward(copied: NamedSharding, own: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, own),)


_whole.defvjp(_whole_forward, _whole_backward)


def device_layout(batch_size: int, parts: int = 1, *, fsdp: bool = False) -> Layout:
    """The layout of all devices for batches of a size.

    Raises:
        UserError: a batch that goes through the model in `parts` parts cannot be cut equally for the devices.
    """
    devices = jax.devices()
    if batch_size % (len(devices) * parts):
        raise UserError(
            f"A batch of {batch_size} cannot be cut into {parts} equal part(s) for {len(devices)} device(s); "
            f"choose a multiple of {len(devices) * parts}."
        )
    return Layout(Mesh(np.array(devices), (AXIS,)), fsdp)


def one_device() -> Layout:
    """The layout of the first device alone."""
    return Layout(Mesh(np.array(jax.devices()[:1]), (AXIS,)))


def context_of(batch: Mapping[str, Any]) -> AbstractContextManager:
    """Within, what is traced knows the devices that the examples of a batch lie on; see `layers/per_image.py`."""
    for array in batch.values():
        sharding = getattr(array, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return jax.sharding.use_abstract_mesh(sharding.mesh.abstract_mesh)
    return nullcontext()


def abstract(tree: Any) -> Any:
    """The shapes, types and shardings of a tree of arrays; their memory may be given away meanwhile."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def first_says(value: bool) -> bool:
    """What process 0 says, on every process."""
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def on_host() -> AbstractContextManager:
    """Within, arrays are made on the host; on the first device where JAX is told to know no CPU."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return nullcontext()


def fetch(array: jax.Array) -> np.ndarray:
    """An array on the host, whole, on every process."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
