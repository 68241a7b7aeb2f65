"""Processes, the mesh of devices, and who holds what: one code path from one CPU core to a pod."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft.errors import UserError

AXIS = "data"


def join_processes() -> None:
    """Makes this process one of several of one run.

    The others are those that JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID
    name; without these variables those that a TPU pod or a cluster manager such as Slurm knows of.

    Raises:
        UserError: the other processes are not known or cannot be reached.
    """
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count), process_id=None if index is None else int(index)
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"The other processes of this run were not found ({str(error).splitlines()[0]}). Set "
            "JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave "
            "--distributed out."
        ) from error


def device_mesh(batch_size: int, parts: int) -> Mesh:
    """All devices of all processes in one row named `data`.

    Raises:
        UserError: a batch that goes through the model in `parts` parts cannot be cut equally for the devices.
    """
    devices = jax.devices()
    if batch_size % (len(devices) * parts):
        raise UserError(
            f"A batch of {batch_size} cannot be cut into {parts} equal part(s) for {len(devices)} device(s); "
            f"choose a multiple of {len(devices) * parts}."
        )
    return Mesh(np.array(devices), (AXIS,))


def state_shardings(state: Any, mesh: Mesh, fsdp: bool) -> Any:
    """Where the leaves of a training state live: copied to every device, or cut along their largest even axis."""

    def sharding(leaf: Any) -> NamedSharding:
        even = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0 and size > 1]
        if not fsdp or mesh.size == 1 or not even:
            return NamedSharding(mesh, PartitionSpec())
        largest = max(even, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[AXIS if axis == largest else None for axis in range(leaf.ndim)]))

    return jax.tree.map(sharding, state)


def replicated(arrays: Mapping[str, jax.Array], mesh: Mesh) -> dict[str, jax.Array]:
    """A copy of every array on every device."""
    return jax.device_put(dict(arrays), NamedSharding(mesh, PartitionSpec()))


def global_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as part of arrays whose rows lie on all devices of all processes."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
