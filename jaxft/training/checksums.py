"""Checksums of the files of a folder, kept in the folder itself, so that damage is noticed before anything is read.

Orbax' arrays have none of their own: a bit that flips among their numbers is another number.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

from jaxft.places import in_bucket

LIST = "checksums.txt"
"""Its first line is the checksum of the others, each of which is `CHECKSUM BYTES PATH` of a file."""
CHUNK = 1 << 22  # bytes


def write_checksums(folder: Path) -> None:
    """Lists every file below a folder, with its size and CRC-32, in the folder's `checksums.txt`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_checksum(path):08x} {path.stat().st_size} {path.relative_to(folder).as_posix()}\n" for path in files]
    text = "".join(lines).encode()
    (folder / LIST).write_bytes(f"{zlib.crc32(text):08x}\n".encode() + text)


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that `write_checksums` has listed, such as `FOLDER/d/12ab is missing`; None where
    every file is as it was then, and of a bucket, which keeps checksums itself. Files that were added since do not
    matter.
    """
    if in_bucket(folder):
        return None
    try:
        return next(_damages(folder), None)
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror or error})"


def _damages(folder: Path) -> Iterator[str]:
    try:
        first, _, text = (folder / LIST).read_bytes().partition(b"\n")
    except FileNotFoundError:
        yield f"{folder.name}{'' if not folder.is_dir() else f'/{LIST}'} is missing"
        return
    if first != f"{zlib.crc32(text):08x}".encode():
        yield f"{folder.name}/{LIST} is damaged"
        return
    for line in text.decode().splitlines():
        checksum, size, name = line.split(" ", 2)
        path = folder / name
        if not path.is_file():
            yield f"{folder.name}/{name} is missing"
        elif path.stat().st_size != int(size):
            yield f"{folder.name}/{name} has {path.stat().st_size} of {size} bytes"
        elif _checksum(path) != int(checksum, 16):
            yield f"{folder.name}/{name} is not what was written"


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value
