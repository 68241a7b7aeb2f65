"""What worker processes have of a dataset together, instead of a copy each: its arrays, in a file that all of them map
into their memory."""

import mmap
import os
import pickle
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import cloudpickle
import numpy as np

from jaxft.errors import UserError

T = TypeVar("T")
_ALIGNED = 64  # bytes, between the beginnings of two arrays


class Shared(Generic[T]):
    """An object that is pickled once, however many processes get it; its NumPy arrays are in a file beside the pickle.

    What another process unpickles is the object itself. Its arrays are the file, mapped: their pages are in memory once
    for all processes, and one that writes into them changes them for itself alone. The memory and the time that each
    process takes do not grow with the arrays; so whatever is long should be one, such as `Packed`.

    Args:
        value: picklable, also by `cloudpickle`.

    Attributes:
        file: the arrays; there until `close`.

    Raises:
        UserError: the temporary folder has no room for the arrays.
    """

    def __init__(self, value: T) -> None:
        self.value = value
        buffers: list[pickle.PickleBuffer] = []
        self._pickled = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        self._parts: list[tuple[int, int]] = []  # where each array begins and ends in the file
        handle, name = tempfile.mkstemp(prefix="jaxft-")
        self.file = Path(name)
        self._finalizer = weakref.finalize(self, Path.unlink, self.file, missing_ok=True)
        try:
            with os.fdopen(handle, "wb") as file:
                for buffer in buffers:
                    start = file.tell()
                    file.write(buffer.raw())
                    self._parts.append((start, file.tell()))
                    file.write(bytes(-file.tell() % _ALIGNED))
                file.write(bytes(1))  # what is empty cannot be mapped
        except OSError as error:
            self.close()
            raise UserError(
                f"What the worker processes share cannot be written to {name} ({error}); set TMPDIR to a folder with "
                "room, or --data.workers 0."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self._pickled, str(self.file), self._parts)

    def close(self) -> None:
        """Remove the file; who has mapped it keeps it. A second call does nothing."""
        self._finalizer()


def _opened(pickled: bytes, file: str, parts: list[tuple[int, int]]) -> Any:
    with open(file, "rb") as opened:
        # Private pages, so that arrays can be written to, as those of a copy.
        mapped = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY))
    return pickle.loads(pickled, buffers=[mapped[start:end] for start, end in parts])


class Packed(Sequence[T]):
    """A sequence as two arrays: its items pickled, one after the other, each made anew whenever it is asked for.

    Args:
        items: picklable.
    """

    def __init__(self, items: Iterable[T]) -> None:
        pickled = [pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([0, *map(len, pickled)])
        self._bytes = np.frombuffer(b"".join(pickled), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "Packed[T]": ...
    def __getitem__(self, index: int | slice) -> "T | Packed[T]":
        positions = range(len(self))[index]  # an IndexError beyond the end
        if isinstance(positions, range):
            return Packed(self[position] for position in positions)
        start, end = self._ends[positions : positions + 2]
        return pickle.loads(self._bytes[start:end].data)
