"""A look at every photo before a run starts; one that was found whole is not decoded again while it stays unchanged."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import pydantic

from jaxft.data.cores import on_all_cores
from jaxft.data.photo import Photo
from jaxft.data.sharing import sharing
from jaxft.download import cache_folder
from jaxft.errors import UserError
from jaxft.fields import Check

Stored = tuple[int, int] | str | None
"""Width and height of a photo as it is stored; or what is wrong with it; or None where nobody looked."""
_Known = dict[str, tuple[int, int, int, int]]  # file below its folder -> bytes, modified (ns), width, height
_WORTH_KEEPING = 100  # to decode fewer takes less than a second
_KNOWN = pydantic.TypeAdapter(_Known)


def stored_sizes(files: Sequence[Path], how: Check, what: str) -> list[Stored]:
    """Width and height of photos as they are stored, or why they cannot be used; on all cores, and of several processes
    each looks at its share, see `jaxft.data.sharing`.

    Args:
        how: `full` decodes those that have not been found whole before, `headers` opens all as far as their size,
            `none` opens nothing.
        what: they are, for the display.
    """
    if how == "none" or not files:
        return [None] * len(files)
    among = sharing()
    parts = among.exchange(json.dumps(_own_sizes(among.own(files), how, what)).encode())
    return among.merged([[_stored(size) for size in json.loads(part)] for part in parts])


def _stored(size: list[int] | str | None) -> Stored:
    """What JSON has made of it, back again."""
    return (size[0], size[1]) if isinstance(size, list) else size


def _own_sizes(files: Sequence[Path], how: Check, what: str) -> list[Stored]:
    # The filter makes a too large picture an error here instead of a warning on the terminal.
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        if how == "headers":
            return on_all_cores(_header, files, f"checking the headers of {what}")
        return _decoded(files, f"checking {what}")


def file_size(path: Path) -> tuple[int, int]:
    """Width and height of a photo, from its header alone, as it is stored.

    Raises:
        UserError: the file is missing or no image.
    """
    try:
        with PIL.Image.open(path) as picture:
            return picture.size
    except FileNotFoundError as error:
        raise UserError(f"the photo {path} does not exist") from error
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombWarning) as error:
        raise UserError(f"the photo {path} cannot be read ({error})") from error


def _header(path: Path) -> Stored:
    try:
        return file_size(path)
    except UserError as error:
        return str(error)


def _whole(path: Path) -> Stored:
    try:
        photo = Photo(path, upright=False)
        photo.rgb()
    except UserError as error:
        return str(error)
    return photo.width, photo.height


def _decoded(files: Sequence[Path], what: str) -> list[Stored]:
    if not files:
        return []
    names = [os.path.abspath(file) for file in files]
    folder = os.path.commonpath({os.path.dirname(name) for name in names})
    cache = cache_folder() / "photos" / hashlib.sha1(folder.encode(errors="surrogateescape")).hexdigest()
    known = _load(cache)
    keys = [name[len(folder) :] for name in names]
    stamps = [_stamp(name) for name in names]
    new = [
        index for index, (key, stamp) in enumerate(zip(keys, stamps, strict=True)) if known.get(key, ())[:2] != stamp
    ]
    sizes: list[Stored] = [known[key][2:] if key in known else None for key in keys]
    for index, size in zip(new, on_all_cores(_whole, [files[index] for index in new], what), strict=True):
        sizes[index] = size
        stamp = stamps[index]
        if isinstance(size, tuple) and stamp is not None:
            known[keys[index]] = (*stamp, *size)
    if len(new) >= _WORTH_KEEPING:
        _save(cache, {key: known[key] for key in keys if key in known and key.isprintable()})  # others are no JSON
    return sizes


def _stamp(name: str) -> tuple[int, int] | None:
    """What changes with a file: its size and the time of its last change."""
    try:
        found = os.stat(name)
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return None
    return found.st_size, found.st_mtime_ns


def _load(cache: Path) -> _Known:
    """What all processes of all runs have noted of a folder, each in a file of its own."""
    known: _Known = {}
    for file in sorted(cache.glob("*.json"), key=lambda file: (_stamp(str(file)) or (0, 0))[1]):  # the latest wins
        known |= _read(file)
    return known


def _read(file: Path) -> _Known:
    try:
        return _KNOWN.validate_json(file.read_bytes(), strict=True)
    except (OSError, pydantic.ValidationError):  # not there, or damaged: its photos are decoded
        return {}


def _save(cache: Path, found: _Known) -> None:
    """Adds to the file of this share of the photos, which is replaced at once. Of two runs at a time the last one's
    stays, which costs the other no more than a second look; and where nothing can be written, every start decodes all
    photos."""
    among = sharing()
    file = cache / f"{among.index}-of-{among.count}.json"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=cache, prefix=f".{file.stem}")
        try:
            with open(handle, "w", encoding="utf-8", errors="surrogateescape") as opened:
                json.dump(_read(file) | found, opened)
            os.replace(scratch, file)
        finally:
            Path(scratch).unlink(missing_ok=True)
    except OSError:
        pass
