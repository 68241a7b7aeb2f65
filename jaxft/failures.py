"""A failure of one process of a run ends them all, within seconds, with its sentence and its exit code.

Otherwise the others would wait for it in the middle of a collective operation, until JAX's heartbeat misses it.
"""

import atexit
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NoReturn

from jaxft.errors import LOST, LostError, UserError

FAILED, LEFT = "jaxft/failed", "jaxft/left"  # folders in the store of JAX's coordination service
POLL = 0.5  # seconds between two looks for failures of others
PATIENCE = 8.0  # seconds in which the others have seen a failure, before they see its process go
LAST = 1.0  # seconds that process 0 stays longer than the others
WORKED_WITHIN = 5.0  # seconds for what is done before a process is ended
GONE = ("Gloo", "NCCL", "Connection reset", "Connection closed", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")
"""What XLA's errors speak of when another process is gone."""
UNREACHABLE = 10.0  # seconds without an answer after which process 0 counts as gone


class Failure(NamedTuple):
    """What went wrong, in a sentence, where, and the exit code for it."""

    sentence: str
    code: int
    process: int
    host: str

    @property
    def place(self) -> str:
        """The process, as a person can find it."""
        return f"process {self.process} on {self.host}"


class _Others:
    """The other processes, as JAX's coordination service knows them; it has no public name for its store."""

    def __init__(self) -> None:
        from jax._src import distributed

        state = distributed.global_state
        self.index, self.count = state.process_id, state.num_processes
        self._client: Any = state.client
        self.address = state.coordinator_address

    def __bool__(self) -> bool:
        return self._client is not None and self.count > 1

    def put(self, folder: str, text: str) -> None:
        """Writes what this process has to say; whatever it has said before stays."""
        import jax

        try:
            self._client.key_value_set(f"{folder}/{self.index}", text)
        except jax.errors.JaxRuntimeError:
            return  # it is there already, or process 0 is gone

    def get(self, folder: str) -> dict[int, str]:
        """What the processes have said."""
        found = self._client.key_value_dir_get(folder)
        return {int(key.rpartition("/")[2]): text for key, text in found}


_when_lost: list[Callable[[], None]] = []  # what is done before this process ends because another one is gone or hangs
_when_ended: list[Callable[[], None]] = []  # what is done before this process is ended for whatever reason but its own
_telling: _Others | None = None  # those whom this process has told of its failure
_ending = threading.Event()  # the process ends, in order or not


def watch() -> None:
    """Begins to look for failures of the other processes, in a thread; one ends this process, too."""
    others = _Others()
    if others:
        atexit.register(_ending.set)
        threading.Thread(target=_watch, args=(others,), daemon=True).start()


def when_lost(work: Callable[[], None]) -> None:
    """Does some work, which does not take long, before this process ends because another one is gone or hangs."""
    _when_lost[:] = [work]


@contextmanager
def when_ended(work: Callable[[], None]) -> Iterator[None]:
    """Within, some work is done before this process is ended because another one fails, or because it hangs itself."""
    _when_ended.append(work)
    try:
        yield
    finally:
        _when_ended.remove(work)


def tell(sentence: str, code: int) -> bool:
    """Tells the other processes of this run that this one ends, and why; whether there are any. `leave_others` comes
    next."""
    global _telling
    if "jax" in sys.modules and not _telling and (others := _Others()):
        _ending.set()
        _telling = others
        others.put(FAILED, json.dumps(Failure(sentence, code, others.index, socket.gethostname())))
        others.put(LEFT, "")
    return bool(_telling)


def leave_others(code: int) -> None:
    """Ends the process if it has told others that it fails: they will not come to where processes end together."""
    if _telling:
        with suppress(OSError, ValueError):  # nobody reads any more
            sys.stdout.flush()
            sys.stderr.flush()
        _wait_for(_telling)
        os._exit(code)


def _wait_for(others: _Others) -> None:
    """Lets all processes see a failure first: what others wait in breaks where a process goes, and where process 0
    goes, which has the store, JAX ends the others."""
    import jax

    until = time.monotonic() + PATIENCE
    with suppress(jax.errors.JaxRuntimeError):  # process 0 is gone
        while time.monotonic() < until and len(others.get(LEFT)) < others.count:
            time.sleep(POLL / 4)
        if others.index == 0:
            time.sleep(LAST)


def give_way(error: Exception) -> UserError | None:
    """Waits a moment after an error of this process, which may be the consequence of another one's failure: then this
    process ends with that. What it means if no other process says anything, or None if it is an error of its own."""
    if "jax" not in sys.modules or not _Others():
        return None
    time.sleep(3 * POLL)
    gone = any(word in str(error) for word in GONE)
    return LostError(f"Another process of this run is gone ({str(error).splitlines()[0][:200]}).") if gone else None


def _watch(others: _Others) -> None:
    import jax

    answered = time.monotonic()
    while not _ending.wait(POLL):
        try:
            failures = others.get(FAILED)
            answered = time.monotonic()
        except jax.errors.JaxRuntimeError:
            if time.monotonic() - answered > UNREACHABLE and not _ending.is_set():
                end(f"Process 0 at {others.address} is gone.", LOST)
            continue
        if failures and not _ending.is_set():
            failure = Failure(*json.loads(failures[min(failures)]))
            for work in _when_lost if failure.code == LOST else ():
                work()
            others.put(LEFT, "")
            _wait_for(others)
            end(f"{failure.sentence} ({failure.place})", failure.code)


def _last_work() -> None:
    for work in reversed(_when_ended):
        with suppress(Exception):  # a bucket's errors have no kind in common
            work()


def end(sentence: str, code: int) -> NoReturn:
    """Ends the process from another thread than the main one, wherever that is."""
    with suppress(OSError, ValueError):  # nobody reads any more
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # which a live display hides
        sys.stdout.flush()
        print(f"{show_cursor}error: {sentence}", file=sys.stderr, flush=True)
    working = threading.Thread(target=_last_work, daemon=True)  # the disk may be what hangs
    working.start()
    working.join(WORKED_WITHIN)
    leave_others(code)
    os._exit(code)
