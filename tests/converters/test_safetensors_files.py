"""Files of safetensors: sharded, hostile, and of every dtype."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converters.files import read, write
from converters.pth_names import DTYPES
from converters.safetensors_reader import NAMES
from jaxft.errors import UserError
from tests.converters.test_files import ARRAYS, assert_same


def sharded(folder: Path) -> Path:
    """The tensors in two files and an index, as large models are published."""
    names = sorted(ARRAYS)
    parts = {"a-1.safetensors": names[:2], "a-2.safetensors": names[2:]}
    for file, keys in parts.items():
        write({key: ARRAYS[key] for key in keys}, folder / file)
    index = folder / "a.safetensors.index.json"
    places = {key: file for file, keys in parts.items() for key in keys}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_sharded_safetensors_are_read_by_their_index(tmp_path: Path) -> None:
    assert_same(read(sharded(tmp_path)))


def a_missing_shard(index: Path) -> None:
    (index.parent / "a-2.safetensors").unlink()


def a_truncated_shard(index: Path) -> None:
    shard = index.parent / "a-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8])


def a_tensor_of_no_shard(index: Path) -> None:
    content = json.loads(index.read_text())
    content["weight_map"]["more"] = "a-1.safetensors"
    index.write_text(json.dumps(content))


def a_tensor_in_two_shards(index: Path) -> None:
    write({key: ARRAYS[key] for key in sorted(ARRAYS)[:3]}, index.parent / "a-1.safetensors")


def a_file_elsewhere(index: Path) -> None:
    index.write_text(json.dumps({"weight_map": {"half": "../a-1.safetensors"}}))


def no_map(index: Path) -> None:
    index.write_text("[1]")


def no_json(index: Path) -> None:
    index.write_text('{"weight_map": {')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (a_missing_shard, r"a-2\.safetensors is not a readable safetensors file"),
        (a_truncated_shard, r"a-2\.safetensors is not a readable safetensors file"),
        (
            a_tensor_of_no_shard,
            r"a-1\.safetensors does not hold the tensors that .* says; .* is more",
        ),
        (
            a_tensor_in_two_shards,
            r"a-1\.safetensors does not hold .* the first that differs is conv\.weight",
        ),
        (a_file_elsewhere, r"is no index of sharded safetensors \(it names files of other folders\)"),
        (no_map, "is no index of sharded safetensors"),
        (no_json, "is no index of sharded safetensors"),
    ],
)
def test_a_damaged_set_of_shards_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    index = sharded(tmp_path)
    damage(index)
    with pytest.raises(UserError, match=message):
        read(index)


def test_a_name_twice_in_a_safetensors_header_is_refused(tmp_path: Path) -> None:
    place = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = f'{{"w": {json.dumps(place)}, "w": {json.dumps({**place, "data_offsets": [4, 8]})}}}'.encode()
    path = tmp_path / "twice.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match="is not a readable safetensors file"):
        read(path)


def safetensors_file(header: bytes, length: int | None = None, data: bytes = b"\0" * 8) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        safetensors_file(entry([2], [0, 8]), length=2**63),
        safetensors_file(entry([2], [0, 8]), length=2**40),
        safetensors_file(entry([2**40], [0, 2**42])),
        safetensors_file(entry([2**62, 8], [0, 8])),
        safetensors_file(entry([2], [8, 0])),
        safetensors_file(entry([2], [0, 16])),
        safetensors_file(entry([2], [4, 12])),
        safetensors_file(entry([2], [0, 8], dtype="PICKLE")),
        safetensors_file(b'{"w": ' + b"[" * 100_000),
        safetensors_file(b"\xff\xfe"),
    ],
    ids=["header of 2^63", "header of 2^40", "huge tensor", "overflow", "backwards", "past the end", "gap", "dtype",
         "deep", "no text"],
)  # fmt: skip
def test_a_hostile_safetensors_header_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors_file(entry([2], [0, 8])))
    assert_same(read(path), {"w": np.zeros(2, np.float32)})
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.safetensors is not a readable safetensors file"):
        read(path)


@pytest.mark.parametrize("dtype", sorted({name for name in NAMES.values() if hasattr(torch, name)}))
def test_every_dtype_is_read_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "weights.safetensors"
    high = 2 if dtype == "bool" else 256
    raw = np.random.default_rng(0).integers(0, high, (4, 6 * DTYPES[dtype].itemsize), np.uint8)
    save_file({"w": torch.from_numpy(raw).view(getattr(torch, dtype)), "empty": torch.zeros(0, 3)}, path)
    assert_same(read(path), {"w": raw.view(DTYPES[dtype]), "empty": np.zeros((0, 3), np.float32)})


def test_what_is_written_to_an_array_stays_in_the_process(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write(ARRAYS, path)
    read(path)["half"][:] = 0
    assert_same(read(path))


def test_a_dtype_that_numpy_does_not_have_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors_file(entry([4], [0, 2], dtype="F4"), data=bytes(2)))
    with pytest.raises(UserError, match=r"w is a tensor of the dtype F4, which NumPy does not have|`F4`"):
        read(path)
