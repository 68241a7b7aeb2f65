"""This process as one of several of one run."""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxft.errors import UserError


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


def gathered(own: bytes) -> list[bytes]:
    """What each process gives, in their order, on every process; all of them call it."""
    lengths = multihost_utils.process_allgather(np.array([len(own)])).reshape(-1).tolist()
    padded = np.zeros(max(lengths), np.uint8)
    padded[: len(own)] = np.frombuffer(own, np.uint8)
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]
