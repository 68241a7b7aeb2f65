"""Reading a `.safetensors` file: its header is checked by safetensors itself, its numbers stay where they are."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from converters.pth_names import DTYPES
from converters.pth_reader import mapped
from jaxft.errors import UserError

# The format's names of the dtypes that NumPy and ml_dtypes have.
NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip

# The text in a header that holds what `files.write` was told beside the tensors, as JSON.
METADATA = "jaxft"


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as the format does: the length of a header of JSON, and that."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name, as arrays that share its memory; what is written to them stays in this process.

    Raises:
        UserError: it is damaged, something else, or holds a dtype that NumPy does not have.
    """
    names, header, numbers = _opened(path)
    arrays = {}
    for name in names:
        dtype, shape, (start, end) = (header[name][field] for field in ("dtype", "shape", "data_offsets"))
        if dtype not in NAMES:
            raise UserError(
                f"{path}: {name} is a tensor of the dtype {dtype}, which NumPy does not have; save it in another."
            )
        kind = DTYPES[NAMES[dtype]]
        arrays[name] = np.ndarray(shape, kind, numbers[start:end]) if math.prod(shape) else np.empty(shape, kind)
    return arrays


def read_metadata(path: Path) -> dict[str, Any]:
    """What `files.write` put beside the tensors of a file; empty where there is nothing.

    Raises:
        UserError: the file or the metadata is damaged.
    """
    _, header, _ = _opened(path)
    try:
        metadata = json.loads(header.get("__metadata__", {}).get(METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: its metadata {METADATA!r} is no JSON ({error}). Copy or download it again."
        ) from error
    return metadata if isinstance(metadata, dict) else {}


def _opened(path: Path) -> tuple[list[str], dict[str, Any], memoryview]:
    """The names of the tensors, the header, and all numbers."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            names = list(file.keys())
        data = mapped(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}). Copy or download it again.") from error
    start = 8 + int.from_bytes(data[:8], "little")
    return names, json.loads(data[8:start]), memoryview(data)[start:]
