"""Reading what `torch.save` wrote, without PyTorch: the zip archive of today and the format of before 1.6.

The pickle inside is read as data (`pth_pickle`). The numbers stay where they are: a file is mapped into memory, and a
tensor is a view of it, whose place is checked against its storage and the file.
"""

import math
import mmap
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from converters.pth_names import DTYPES, Storage, Tensor, Unreadable
from converters.pth_pickle import Unpickler
from jaxft.errors import UserError

ZIP = b"PK\x03\x04"
# The pickled numbers that a file of the legacy format begins with.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# What people have under a checkpoint's name instead -> what it is and what to do.
OTHER_FILES = (
    (
        rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml)",
        "a web page, not a readable checkpoint; the server answered with a message or a login. Open it to see which, "
        "and download the checkpoint itself",
    ),
    (
        rb"version https://git-lfs\.github\.com/",
        "a pointer of Git LFS, not a readable checkpoint; the file itself was not downloaded. Run `git lfs pull`",
    ),
    (rb"\x1f\x8b\x08", "compressed by gzip, not a readable checkpoint. Unpack it first"),
    (
        rb"(?s)(sys_info|pickle|tensors|storages)\0.{245,255}ustar",
        "of the tar format that PyTorch wrote before 0.1.10, which jaxft does not read. Load it in PyTorch with "
        "weights_only=False, if you trust it, and torch.save its state dict again",
    ),
    (rb"(?s).{257}ustar", "a tar archive, not a readable checkpoint. Unpack it first"),
)
SAVE = "load it where you trust it, and save its state dict alone, with torch.save(model.state_dict(), ...)"


class Checkpoint(NamedTuple):
    """A file that `torch.save` wrote: its content, and where the numbers of its `Tensor`s are."""

    path: Path
    content: Any  # `Tensor`s, `Unreadable`s, plain containers and values, and `Inert`s
    place: Callable[[Storage], memoryview]

    def arrays(self, tensors: Mapping[str, Tensor | Unreadable]) -> dict[str, np.ndarray]:
        """Tensors of `content` as arrays that share the file's memory; what is written to them stays in this process.

        Raises:
            UserError: one has no array in NumPy, or lies outside the file.
        """
        for name, tensor in tensors.items():
            if isinstance(tensor, Unreadable):
                raise UserError(
                    f"{self.path}: {name} is {tensor.what}; jaxft reads dense tensors of NumPy's dtypes: {tensor.cure}."
                )
        with _damage_named(self.path):
            return {
                name: _view(tensor, self.place(tensor.storage))
                for name, tensor in tensors.items()
                if isinstance(tensor, Tensor)
            }


def refuse_other_files(path: Path) -> None:
    """Names what is no checkpoint at all.

    Raises:
        UserError: the file is a web page, a pointer of Git LFS, or an archive.
    """
    with _damage_named(path), path.open("rb") as file:
        head = file.read(512)
    for pattern, found in OTHER_FILES:
        if re.match(pattern, head):
            raise UserError(f"{path} is {found}.")


def load(path: Path) -> Checkpoint:
    """What `torch.save` put into a file; no tensor is read yet.

    Raises:
        UserError: it is damaged, something else, or holds code.
    """
    with _damage_named(path):
        data = mapped(path)
        return _load_zip(path, data) if data[:4] == ZIP else _load_legacy(path, data)


def mapped(path: Path) -> mmap.mmap:
    """A file in memory, private to this process: what is written to its arrays does not reach the disk.

    Raises:
        OSError, ValueError: it cannot be read, or is empty.
    """
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turns whatever reading a damaged file raises into one sentence."""
    try:
        yield
    except (
        pickle.UnpicklingError,
        struct.error,
        ArithmeticError,
        EOFError,
        LookupError,
        NotImplementedError,
        OSError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise UserError(
            f"{path} is damaged, truncated or no PyTorch checkpoint ({reason}). Copy or download it again."
        ) from error


def _load_zip(path: Path, data: mmap.mmap) -> Checkpoint:
    """A folder in a zip archive: `data.pkl`, and the numbers of each storage in a record `data/KEY`."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    names = {record.filename: record for record in records}
    folder = records[0].filename.split("/")[0] if records else ""
    if f"{folder}/constants.pkl" in names:
        raise UserError(
            f"{path} is a TorchScript archive: a program, not a state dict, and jaxft runs nothing from a file. Load "
            "it with torch.jit.load where you trust it, and torch.save its state_dict()."
        )
    if f"{folder}/data.pkl" not in names:
        raise UserError(
            f"{path} is a zip archive that torch.save did not write: its folder {folder[:100]!r} has no data.pkl. If "
            "torch.export wrote it, torch.save the state dict of the program; otherwise unpack it first."
        )
    _refuse_a_bomb(path, records, len(data))
    if len(names) < len(records):
        raise ValueError("two records have one name")

    def content(name: str) -> memoryview:
        if f"{folder}/{name}" not in names:
            raise ValueError(f"it has no record {name}")
        return _record(data, names[f"{folder}/{name}"])

    order = bytes(content("byteorder")[:20]) if f"{folder}/byteorder" in names else b"little"
    if order != b"little":
        raise UserError(
            f"{path} holds its numbers in the order of bytes {order!r}; little was expected. Load it in PyTorch and "
            "save it as .safetensors."
        )
    unpickler = Unpickler()
    tree = unpickler.load(BytesIO(content("data.pkl")))
    _refuse_code(path, unpickler)
    return Checkpoint(path, tree, lambda storage: content(f"data/{storage.key}"))


def _refuse_a_bomb(path: Path, records: list[zipfile.ZipInfo], weight: int) -> None:
    """PyTorch stores what it saves as it is: an archive that would unpack to more than it weighs is not its own."""
    size = sum(record.file_size for record in records)
    if size > weight:
        raise UserError(
            f"{path} would unpack to {size / 2**20:,.0f} MB, more than its own size; PyTorch never writes such a file. "
            "It is damaged or hostile, and was not opened."
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UserError(
            f"{path} is a zip archive with compressed records; torch.save stores them as they are. Load it in PyTorch "
            "and torch.save it again, or unpack it if it is an archive around a checkpoint."
        )


def _record(data: mmap.mmap, record: zipfile.ZipInfo) -> memoryview:
    """The bytes of a stored record. Its local header may be longer than the one in the archive's list."""
    header = data[record.header_offset : record.header_offset + 30]
    if record.header_offset < 0 or header[:4] != ZIP or record.flag_bits & 1:
        raise ValueError(f"the record {record.filename} is not where the archive says, or encrypted")
    start = record.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if record.compress_size != record.file_size or start + record.file_size > len(data):
        raise ValueError(f"the record {record.filename} ends outside the file")
    return memoryview(data)[start : start + record.file_size]


def _load_legacy(path: Path, data: mmap.mmap) -> Checkpoint:
    """Five pickles one after the other, then each storage: the number of its elements, and they."""
    first = Unpickler()
    if first.load(data) != MAGIC:
        asks = f"; it asks to import and run {_first(first)}" if first.unknown else ""
        raise UserError(
            f"{path} is a plain pickle, which torch.save did not write{asks}. It may be hostile; jaxft reads tensors "
            f"and runs nothing from a file: {SAVE}."
        )
    if Unpickler().load(data) != PROTOCOL:
        raise ValueError(f"it is of another protocol than {PROTOCOL}")
    Unpickler().load(data)  # Of the machine that wrote it. The numbers of this format are little-endian anyway.
    unpickler = Unpickler()
    tree = unpickler.load(data)
    _refuse_code(path, unpickler)
    places: dict[str, memoryview] = {}
    keys, position = Unpickler().load(data), data.tell()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError("its storages have no keys")
    for key in keys:
        if key not in unpickler.storages:
            raise ValueError(f"the storage {key} is of no tensor")
        storage = unpickler.storages[key]
        (total,) = struct.unpack_from("<q", data, position)
        start, position = position + 8, position + 8 + total * storage.itemsize
        if total != storage.total or position > len(data):
            raise ValueError(f"the storage {key} ends outside the file")
        places[key] = memoryview(data)[start:position]
    return Checkpoint(path, tree, lambda storage: places[storage.key])


def _first(unpickler: Unpickler) -> str:
    return next(iter(unpickler.unknown))[:100]


def _refuse_code(path: Path, unpickler: Unpickler) -> None:
    if unpickler.holds_module:
        kind = f" ({_first(unpickler)})" if unpickler.unknown else ""
        raise UserError(
            f"{path} holds a whole pickled model{kind}, which is a program as much as weights. jaxft never runs code "
            f"from a checkpoint: {SAVE}."
        )
    if unpickler.unknown:
        raise UserError(
            f"{path} holds more than tensors: it asks to import and run {_first(unpickler)}. jaxft never runs code "
            f"from a checkpoint: {SAVE}."
        )


def _view(tensor: Tensor, content: memoryview) -> np.ndarray:
    """A tensor as an array over the bytes of its storage's record."""
    storage, dtype = tensor.storage, DTYPES[tensor.dtype]
    if len(content) < storage.total * storage.itemsize:
        raise ValueError(f"the storage {storage.key} is shorter than it says")
    if math.prod(tensor.shape) == 0:
        return np.empty(tensor.shape, dtype)
    start = storage.first * storage.itemsize
    part = content[start : start + storage.size * storage.itemsize]
    steps = zip(tensor.shape, tensor.strides, strict=True)
    end = tensor.offset + 1 + sum((count - 1) * step for count, step in steps)
    if end * dtype.itemsize > len(part):
        raise ValueError(f"a tensor reaches beyond the storage {storage.key}")
    strides = [step * dtype.itemsize for step in tensor.strides]
    return np.ndarray(tensor.shape, dtype, part, tensor.offset * dtype.itemsize, strides)
