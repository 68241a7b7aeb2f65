"""This process as one of several of one run: joining them, exchanging bytes, and whether all are alike."""

import hashlib
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxft.data.sharing import Sharing, shared
from jaxft.errors import UserError
from jaxft.failures import watch

JOINED_WITHIN = 300  # seconds; JAXFT_JOIN_SECONDS says otherwise
SHARED_WITHIN = 60  # seconds
DAY = 24 * 60 * 60
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead
NAMED = 5  # differences in a message


def join(*, preemptible: bool = False) -> None:
    """Makes this process one of several of one run.

    The others are those that JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID
    name; without these variables those that a TPU pod or a cluster manager such as Slurm knows of.

    Args:
        preemptible: SIGTERM is left to JAX, which tells all processes; they agree on where to stop, see
            `jaxft.training.stopping`. Otherwise it ends this one.

    Raises:
        UserError: the other processes are not known or cannot be reached.
    """
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    seconds = _join_seconds()
    if index not in (None, "0") and (address := os.environ.get("JAX_COORDINATOR_ADDRESS")):
        _wait_for(address, seconds)
    jax.config.update("jax_enable_preemption_service", preemptible)
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if index is None else int(index),
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=DAY,  # process 0 may write alone what all have predicted
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"The other processes of this run were not found ({str(error).splitlines()[0]}). Set "
            "JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave "
            "--distributed out."
        ) from error
    watch()
    with _on_standard_error():
        multihost_utils.sync_global_devices("all have joined")


def _join_seconds() -> int:
    return int(os.environ.get("JAXFT_JOIN_SECONDS", JOINED_WITHIN))


def _wait_for(address: str, seconds: float) -> None:
    """Waits until process 0 listens: JAX itself would end the process without an error that can be caught.

    Raises:
        UserError: it does not.
    """
    host, _, port = address.rpartition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except (OSError, ValueError, OverflowError) as error:
            if time.monotonic() > until or isinstance(error, ValueError | OverflowError):
                raise UserError(
                    f"The other processes of this run were not found: process 0 at JAX_COORDINATOR_ADDRESS={address} "
                    f"was not reached within {seconds} s ({error}). Start it, or correct the address (HOST:PORT)."
                ) from error
        time.sleep(0.2)


@contextmanager
def _on_standard_error() -> Iterator[None]:
    """Within, what libraries write to standard output goes to standard error: Gloo announces itself there."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def gathered(own: bytes) -> list[bytes]:
    """What each process gives, in their order, on every process; all of them call it."""
    if jax.process_count() == 1:
        return [own]
    lengths = multihost_utils.process_allgather(np.array([len(own)])).reshape(-1).tolist()
    padded = np.zeros(max(lengths), np.uint8)
    padded[: len(own)] = np.frombuffer(own, np.uint8)
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def checks_shared() -> AbstractContextManager[None]:
    """Within, each process checks its share of the photos, and knows what the others have found."""

    def exchange(own: bytes) -> list[bytes]:
        _wait_for_all()  # however much longer one has to decode
        return gathered(own)

    return shared(Sharing(jax.process_index(), jax.process_count(), exchange))


@contextmanager
def first_alone() -> Iterator[None]:
    """Within, process 0 works first and the others after it, who find what it has downloaded in a cache that they may
    share with it. All processes enter it."""
    index = jax.process_index()
    if index:
        _wait_for_all()
    yield
    if not index:
        _wait_for_all()


def say(topic: str, text: str) -> None:
    """Tells the other processes something, in the place of what this one has told of the same topic before."""
    _service().key_value_set(f"jaxft/{topic}/{jax.process_index()}", text, allow_overwrite=True)


def said_last(topic: str) -> dict[int, str]:
    """What each process has told last of a topic; those that have not told anything yet are missing."""
    return {int(key.rpartition("/")[2]): text for key, text in _service().key_value_dir_get(f"jaxft/{topic}")}


_waits = itertools.count()


def _wait_for_all() -> None:
    """Returns when all processes are here, however long it takes: no devices wait, whose operations have a limit."""
    if jax.process_count() > 1:
        _service().wait_at_barrier(f"jaxft/{next(_waits)}", timeout_in_ms=DAY * 1000)


def _service() -> Any:
    """JAX's coordination service, which has no public name."""
    from jax._src import distributed

    return distributed.global_state.client


def check_alike(facts: Mapping[str, object]) -> None:
    """Compares facts that must be the same in all processes of a run, such as the fields of its configuration.

    Raises:
        UserError: some differ; every process says the same of it.
    """
    said = {name: repr(value) for name, value in facts.items()} | {"host": socket.gethostname()}
    all_said = [json.loads(text) for text in gathered(json.dumps(said).encode())]
    first, odd = all_said[0], list[str]()
    for index, other in enumerate(all_said):
        for name in sorted((first | other).keys() - {"host"}):
            if first.get(name) != other.get(name):
                here = f"{other.get(name, 'missing')} in process {index} on {other['host']}"
                odd.append(f"{name}: {first.get(name, 'missing')} in process 0 on {first['host']}, {here}")
    if odd:
        more = f"; and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
        raise UserError(
            f"The processes of this run are not alike ({'; '.join(odd[:NAMED])}{more}). Give all of them the same "
            "command line, the same files and the same versions."
        )


def fingerprint(lines: Sequence[str]) -> str:
    """How many lines, and a hash of them."""
    return f"{len(lines)} ({hashlib.sha256(chr(10).join(lines).encode(errors='surrogateescape')).hexdigest()[:8]})"


def check_shared(path: Path) -> None:
    """Looks whether every process sees a file as process 0 does.

    Raises:
        UserError: the folder is not shared; every process says so.
    """
    (wanted, *_), until = gathered(_digest(path)), time.monotonic() + min(SHARED_WITHIN, _join_seconds())
    while _digest(path) != wanted and time.monotonic() < until:
        time.sleep(0.5)  # a network disk may show a new file late
        with suppress(OSError):
            os.listdir(path.parent)
    seen = gathered(_digest(path))
    apart = [str(index) for index, digest in enumerate(seen) if digest != wanted]
    if apart:
        raise UserError(
            f"The run directory {path.parent} of process 0 is another one in process {', '.join(apart)}; all processes "
            "of a run need one folder that they share. Choose such a --workdir."
        )


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""


@cache
def code_version() -> str:
    """A hash of the code of jaxft and of its converters, as this process has it on its disk."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for folder in (package, package.parent / "converters"):
        for file in sorted(folder.rglob("*.py")):
            digest.update(str(file.relative_to(package.parent)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]
