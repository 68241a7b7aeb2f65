"""Ends a run that goes nowhere: JAX's own heartbeat sees processes that died, and not those that hang."""

import faulthandler
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from jaxft.activity import last_sign
from jaxft.errors import LOST
from jaxft.failures import end, tell, when_lost

LOOKS = 20  # in the time after which a process counts as hanging
DISK = 10.0  # seconds for the stacks to be written
GRACE = 0.2  # of that time, in which it may go on after all


@contextmanager
def watched(seconds: float, folder: Path, process: int) -> Iterator[None]:
    """Within, a process that shows no sign of life (see `jaxft.activity`) for so long writes the stacks of its threads
    to `folder/hang-HOST-PROCESS.txt`, says so, and ends, and all others of its run with it."""
    over, file = threading.Event(), folder / f"hang-{socket.gethostname()}-{process}.txt"
    when_lost(partial(_write_in_time, file))
    watching = threading.Thread(target=_watch, args=(seconds, file, process, over), daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()


def _watch(seconds: float, file: Path, process: int, over: threading.Event) -> None:
    while not over.wait(seconds / LOOKS):
        silent, activity = last_sign()
        if silent < seconds:
            continue
        _write_in_time(file)
        if over.wait(GRACE * seconds) or last_sign()[0] < seconds:
            continue  # it goes on after all
        sentence = f"Process {process} has hung for {silent:.0f} s while {activity}; its stacks are in {file}."
        tell(sentence, LOST)
        end(sentence, LOST)


def _write_in_time(file: Path) -> None:
    """In a thread that nobody need wait for: the disk may be what hangs."""
    writing = threading.Thread(target=_write_stacks, args=(file,), daemon=True)
    writing.start()
    writing.join(DISK)


def _write_stacks(file: Path) -> None:
    with suppress(OSError), tempfile.TemporaryFile("w+") as stacks:
        faulthandler.dump_traceback(stacks, all_threads=True)
        stacks.seek(0)
        file.write_text(stacks.read())
