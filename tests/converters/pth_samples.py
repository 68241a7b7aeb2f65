"""PyTorch files put together by hand, down to the opcode: old ones, odd ones and hostile ones."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
NO_ARGUMENTS = b")R"


def saved(content: Any, **options: Any) -> bytes:
    """What `torch.save` writes."""
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def zipped(content: bytes, storages: Mapping[str, bytes] | None = None, **records: bytes) -> bytes:
    """A file of the zip format around a pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in records.items():
            archive.writestr(f"archive/{name}", data)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return stream.getvalue()


def legacy(content: bytes, storages: Sequence[tuple[str, int, bytes]] = ()) -> bytes:
    """A file of the legacy format around a pickle; storages by key, number of elements, and bytes."""
    start = b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True}))
    keys = pickle.dumps([key for key, _, _ in storages], 2)
    return start + content + keys + b"".join(struct.pack("<q", total) + data for _, total, data in storages)


def pickled(*opcodes: bytes) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + b"".join(opcodes) + b"."


def plain(value: Any) -> bytes:
    """The opcodes of a plain value; they may take the first entries of the memo."""
    return pickle.dumps(value, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    """The opcode that asks for a name."""
    return f"c{module}\n{name}\n".encode()


def reference(kind: bytes, key: str, total: int, *views: bytes) -> bytes:
    """The opcodes that refer to a storage."""
    return b"(" + plain("storage") + kind + plain(key) + plain("cpu") + plain(total) + b"".join(views) + b"tQ"


def tensor(storage: bytes, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> bytes:
    """The opcodes of a call of PyTorch's oldest function that makes a tensor of a storage."""
    layout = plain(offset) + plain(tuple(shape)) + plain(tuple(strides))
    return named("torch._utils", "_rebuild_tensor") + b"(" + storage + layout + b"tR"


FLOATS = named("torch", "FloatStorage")
