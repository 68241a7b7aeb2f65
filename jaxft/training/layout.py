"""The mesh of devices and who holds what: the one place that knows, one code path from one CPU core to a pod."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.errors import UserError
from jaxft.models.layers.per_image import COPIES, example_axes

DATA, FSDP = "data", "fsdp"
SMALLEST = 4096  # numbers of a leaf that is cut: a smaller one would cost as many messages and save nothing
ArrayDict = dict[str, jax.Array]


@dataclass(frozen=True)
class Layout:
    """All devices of all processes: a row of groups along `data`, the devices of a group along `fsdp`.

    The examples of a batch lie over all of them. The devices of a group hold parameters, statistics and optimizer state
    together, each a part; where a group is one device, which holds a whole copy, there is no axis `fsdp`.

    Along `copies`, where there is such an axis, devices have the same examples and do the same: a run whose batch the
    devices that are left do not divide goes on so.
    """

    mesh: Mesh

    @property
    def copied(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def examples(self) -> NamedSharding:
        """The examples of a batch, equally many on each device."""
        return NamedSharding(self.mesh, PartitionSpec(example_axes(self.mesh.axis_names)))

    @property
    def parts(self) -> int:
        """In how many equal parts the examples of a batch lie over the devices."""
        return self.mesh.size // self.mesh.shape.get(COPIES, 1)

    @property
    def idle(self) -> int:
        """How many devices do what others do, too."""
        return self.mesh.size - self.parts

    def sharding(self, shape: Sequence[int]) -> NamedSharding:
        """Where a leaf of the training state lives: copied, or cut along its largest axis that can be cut evenly."""
        parts = self.mesh.shape.get(FSDP, 1)
        even = [axis for axis, size in enumerate(shape) if size % parts == 0]
        if parts == 1 or math.prod(shape) < SMALLEST or not even:
            return self.copied
        largest = max(even, key=lambda axis: shape[axis])
        return NamedSharding(
            self.mesh, PartitionSpec(*[FSDP if axis == largest else None for axis in range(len(shape))])
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

    def positions(self, size: int) -> np.ndarray:
        """Which examples of a batch of so many this process has, in order: those of its own devices."""
        return _positions(self.examples, size)

    def batch(self, batch: Mapping[str, np.ndarray]) -> ArrayDict:
        """This process's examples of a batch, those of `positions`, as its part of arrays that lie on all devices."""
        own = len(next(iter(batch.values())))
        size = own * self.parts // len(self.positions(self.parts))
        positions = self.positions(size)

        def part(array: np.ndarray, index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(size)
            first = int(np.searchsorted(positions, start))
            return array[first : first + stop - start]

        return {
            name: jax.make_array_from_callback((size, *array.shape[1:]), self.examples, partial(part, array))
            for name, array in batch.items()
        }

    def abstract_batch(self, example: Mapping[str, Any], size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes, types and shardings of a batch of so many examples like this one, over all processes."""
        arrays = {name: np.asarray(value) for name, value in example.items()}
        return {
            name: jax.ShapeDtypeStruct(
                (size, *array.shape), jax.dtypes.canonicalize_dtype(array.dtype), sharding=self.examples
            )
            for name, array in arrays.items()
        }

    def bytes_per_device(self, tree: Any) -> int:
        """What a device holds of a tree of arrays or shapes."""
        return sum(
            math.prod(self.sharding(leaf.shape).shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
        )


@cache
def _positions(sharding: NamedSharding, size: int) -> np.ndarray:
    cuts = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[cut] for cut in cuts]))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _whole(array: jax.Array, copied: NamedSharding, own: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, copied)


def _whole_forward(array: jax.Array, copied: NamedSharding, own: NamedSharding) -> tuple[jax.Array, None]:
    return _whole(array, copied, own), None


def _whole_backward(copied: NamedSharding, own: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, own),)


_whole.defvjp(_whole_forward, _whole_backward)


def device_layout(
    batch_size: int,
    parts: int = 1,
    *,
    fsdp: int = 1,
    devices: Sequence[jax.Device] | None = None,
    copies: bool = False,
) -> Layout:
    """The layout of devices for batches of a size, in the order of their network.

    Args:
        parts: in how many parts a batch goes through the model.
        fsdp: devices that hold the state together; 0 for all.
        devices: all that there are by default; they may be those of an absent machine.
        copies: where they do not divide the batch, as many of them do the same as it takes.

    Raises:
        UserError: devices or batch cannot be cut equally.
    """
    devices = jax.devices() if devices is None else devices
    group = fsdp or len(devices)
    if len(devices) % group:
        raise UserError(f"fsdp is {fsdp}, but {len(devices)} device(s) cannot be cut into groups of {fsdp}.")
    groups = len(devices) // group
    at_once = next(
        (count for count in range(groups, 0, -1) if groups % count == 0 and batch_size % (count * group * parts) == 0),
        0,
    )
    if not at_once and copies and group > 1:
        fits = math.gcd(batch_size // parts, len(devices)) if batch_size % parts == 0 else 1
        raise UserError(
            f"A batch of {batch_size} in {parts} part(s) cannot be cut for groups of {group} of the {len(devices)} "
            f"devices that are left; lower --hardware.fsdp to a divisor of {fits}."
        )
    if not at_once or (at_once < groups and not copies):
        raise UserError(
            f"A batch of {batch_size} cannot be cut into {parts} equal part(s) for {len(devices)} device(s); "
            f"choose a multiple of {len(devices) * parts}."
        )
    arranged = _in_network_order(devices, groups, group).reshape(at_once, groups // at_once, group)
    axes = {DATA: at_once, COPIES: groups // at_once, FSDP: group}
    named = {axis: size for axis, size in axes.items() if axis == DATA or size > 1}
    return Layout(Mesh(arranged.reshape(tuple(named.values())), tuple(named)))


def _in_network_order(devices: Sequence[jax.Device], groups: int, group: int) -> np.ndarray:
    """Devices as `[groups, group]`, neighbors beside each other; a group lies within a slice of TPUs.

    Raises:
        UserError: a group is larger than a slice.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1 or devices[0].platform != "tpu":  # XLA calls every machine with GPUs a slice, too
        return mesh_utils.create_device_mesh((groups, group), devices, allow_split_physical_axes=True)
    if groups % slices:
        raise UserError(f"fsdp makes groups of {group} devices, more than one of the {slices} slices has; lower it.")
    return mesh_utils.create_hybrid_device_mesh(
        (groups // slices, group), (slices, 1), devices, allow_split_physical_axes=True
    )


def one_device() -> Layout:
    """The layout of the first device alone."""
    return Layout(Mesh(np.array(jax.devices()[:1]), (DATA,)))


def context_of(batch: Mapping[str, Any]) -> AbstractContextManager:
    """Within, what is traced knows the devices that the examples of a batch lie on; see `layers/per_image.py`."""
    for array in batch.values():
        sharding = getattr(array, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return jax.sharding.use_abstract_mesh(sharding.mesh.abstract_mesh)
    return nullcontext()


@contextmanager
def outside_meshes() -> Iterator[None]:
    """Within, no mesh of a caller (`jax.set_mesh`) has a say in where arrays lie."""
    if jax.sharding.get_abstract_mesh().empty:
        yield
        return
    with jax.set_mesh(Mesh(np.empty((), object), ())):
        yield


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
