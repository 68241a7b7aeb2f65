"""A text file that grows by lines, on a disk or in a bucket, whose objects cannot grow."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxft.places import in_bucket, write_whole

PATIENCE = 30.0  # seconds after which a bucket has the lines so far, if nobody asks for them before


class Lines:
    """The lines of a file, and further ones; on a disk each is written at once.

    Args:
        path: the file, which need not exist.
        keep: which of its lines stay.
    """

    def __init__(self, path: Path, keep: Callable[[str], bool]) -> None:
        self._path, self._new, self._since = path, False, time.monotonic()
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        self._lines = [line for line in before.splitlines() if keep(line)]
        if self._text() != before:
            self._write_all()
        self._file = None if in_bucket(path) else path.open("a", encoding="utf-8")

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def add(self, line: str) -> None:
        """Adds a line."""
        self._lines.append(line)
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
            return
        self._new = True
        if time.monotonic() - self._since > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Returns when all lines can be read by others."""
        if self._new:
            self._write_all()

    def close(self) -> None:
        """The file is complete."""
        self.flush()
        if self._file is not None:
            self._file.close()

    def _text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)

    def _write_all(self) -> None:
        write_whole(self._path, self._text().encode())
        self._new, self._since = False, time.monotonic()
