"""Programs for tests of how benchmarks time them; a process that runs one imports this file."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def noting(name: str, file: str) -> Callable[[], None]:
    """Writes its name into a file, and takes longer than the shortest turn."""

    def run() -> None:
        with Path(file).open("a") as notes:
            notes.write(name)
        time.sleep(0.21)

    return run


def sleeping(seconds: float, compiled: bool = False) -> Callable[[], None]:
    """Takes so many seconds, a tenth if it is compiled."""
    return lambda: time.sleep(seconds / 10 if compiled else seconds)


def printing() -> Callable[[], str]:
    """Prints what looks like an answer, and answers."""
    return lambda: print('{"error": "noise"}') or "done"  # type: ignore[func-returns-value]


def variable(name: str) -> Callable[[], str | None]:
    """Answers what a variable was when its process began."""
    entries = (entry.split("=", 1) for entry in Path("/proc/self/environ").read_text().split("\0") if entry)
    found = {key: value for key, value in entries}.get(name)
    return lambda: found


def failing() -> Callable[[], None]:
    """Cannot be prepared."""
    raise ValueError("this program\ncannot be")


def dying(after: int) -> Callable[[], None]:
    """Ends its process in a later run."""
    runs = iter(range(after))

    def run() -> None:
        if next(runs, None) is None:
            os.write(2, b"last words\n")
            os._exit(7)
        time.sleep(0.21)

    return run
