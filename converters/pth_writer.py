"""Writing what `torch.load(weights_only=True)` reads, without PyTorch: a state dict in the zip format.

The pickle is put together from the pieces that `torch.save` writes (protocol 2): the names of a tensor's function and
storage, and plain values between them.
"""

import json
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from converters.pth_names import DTYPES, STORAGES, UNTYPED
from jaxft.errors import UserError

ALIGNMENT = 64
FOLDER = "archive"
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
# PyTorch says it of a network's second version, because torchvision's MNASNet accepts no state dict that says nothing;
# the first versions had other keys and shapes, so that no network mistakes it.
VERSION = 2
# The opcode that names the kind of storage, by what it holds.
STORAGE_OF = {
    dtype: f"c{module}\n{kind}\n".encode()
    for module, kind, dtype in ((*name.rsplit(".", 1), dtype) for name, dtype in STORAGES.items())
    if module == ("torch.storage" if dtype == UNTYPED else "torch")
}


def save(state: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a state dict, or `{"meta": metadata, "state_dict": state}` as MMDetection does where there is metadata.

    Args:
        state: arrays by name, of any layout in memory.
        metadata: values that JSON has, under texts; tuples become lists.

    Raises:
        UserError: PyTorch has no such dtype.
        OSError: the disk cannot be written.
    """
    arrays = {key: _native(key, array) for key, array in state.items()}
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, file, "data.pkl", _pickled(arrays, metadata))
        _add(archive, file, "byteorder", b"little")
        for index, array in enumerate(arrays.values()):
            contiguous = np.require(array, requirements="C")
            _add(archive, file, f"data/{index}", contiguous.reshape(-1).view(np.uint8).data)
        _add(archive, file, "version", b"3\n")


def _native(key: str, array: np.ndarray) -> np.ndarray:
    name = array.dtype.name
    if name not in DTYPES:
        raise UserError(f"{key} is {name}, which PyTorch does not have; convert it before it is written as .pth.")
    return np.asarray(array, DTYPES[name])


def _add(archive: zipfile.ZipFile, file: IO[bytes], name: str, content: bytes | memoryview) -> None:
    """A record as it is, which begins at a multiple of 64 bytes, so that PyTorch can map it into memory."""
    record = zipfile.ZipInfo(f"{FOLDER}/{name}")
    # The header is 30 bytes, the name, a field of padding (id, length, padding) and one of 20 bytes for large files.
    padding = -(file.tell() + 30 + len(record.filename) + 4 + 20) % ALIGNMENT
    record.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    record.file_size = len(content)
    with archive.open(record, "w", force_zip64=True) as target:
        target.write(content)


def _pickled(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None) -> bytes:
    """The pickle of everything but the numbers."""
    tensors = b"".join(_plain(key) + _tensor(str(index), array) for index, (key, array) in enumerate(arrays.items()))
    state = ORDERED_DICT + b"(" + tensors + b"u" + _plain({"_metadata": {"": {"version": VERSION}}}) + b"b"
    if metadata is not None:
        plain = json.loads(json.dumps(metadata))
        state = b"}(" + _plain("meta") + _plain(plain) + _plain("state_dict") + state + b"u"
    return b"\x80\x02" + state + b"."


def _plain(value: Any) -> bytes:
    """The opcodes of a plain value, without the frame of a pickle."""
    return pickle.dumps(value, 2)[2:-1]


def _tensor(storage: str, array: np.ndarray) -> bytes:
    """A call of the function that makes a tensor of a storage: its place, shape, strides; it wants no gradient."""
    dtype = array.dtype.name
    strides = tuple(math.prod(max(size, 1) for size in array.shape[axis + 1 :]) for axis in range(array.ndim))
    typed = dtype in STORAGE_OF
    kind, count = (STORAGE_OF[dtype], array.size) if typed else (STORAGE_OF[UNTYPED], array.nbytes)
    place = b"(" + _plain("storage") + kind + _plain(storage) + _plain("cpu") + _plain(count) + b"tQ"
    layout = _plain(0) + _plain(array.shape) + _plain(strides) + _plain(False) + ORDERED_DICT
    function = b"ctorch._utils\n_rebuild_tensor_v2\n" if typed else b"ctorch._utils\n_rebuild_tensor_v3\n"
    return function + b"(" + place + layout + (b"" if typed else f"ctorch\n{dtype}\n".encode()) + b"tR"
