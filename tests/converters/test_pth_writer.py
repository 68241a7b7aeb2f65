"""What is written without PyTorch, as PyTorch reads it."""

import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from converters.files import read, write
from converters.pth_names import DTYPES
from jaxft.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def arrays(dtype: str) -> dict[str, np.ndarray]:
    """Arrays of all layouts."""
    kind = DTYPES[dtype]
    high = 2 if dtype == "bool" else 256
    whole = np.random.default_rng(0).integers(0, high, (4, 6 * kind.itemsize), np.uint8).view(kind)
    return {
        "whole": whole,
        "turned": whole.T,
        "Fortran's": np.asfortranarray(whole),
        "every other": whole[::2, 1::2],
        "backwards": whole[::-1],
        "expanded": np.broadcast_to(whole[:1], (3, 6)),
        "scalar": np.array(whole[3, 5]),
        "empty": np.zeros((0, 3), kind),
        "name é 名": whole[2],
    }


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", [name for name in DTYPES if hasattr(torch, name)])  # PyTorch 2.6 has not yet all
def test_pytorch_reads_every_dtype_and_layout_bit_for_bit(file: Path, dtype: str, mapped: bool) -> None:
    state = arrays(dtype)
    write(state, file)
    loaded = torch.load(file, weights_only=True, mmap=mapped)
    assert list(loaded) == list(state)
    for key, array in state.items():
        tensor = loaded[key]
        assert (tensor.dtype, tuple(tensor.shape)) == (getattr(torch, dtype), array.shape), key
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert bits(tensor) == array.tobytes(), key
    assert {key: value.tobytes() for key, value in read(file).items()} == {key: x.tobytes() for key, x in state.items()}


def test_numbers_of_the_other_order_of_bytes_are_turned(file: Path) -> None:
    write({"w": np.arange(3, dtype=">f8")}, file)
    assert torch.load(file, weights_only=True)["w"].tolist() == [0, 1, 2]


def test_every_storage_begins_at_a_multiple_of_64(file: Path) -> None:
    write({f"w{size}": np.ones(size, np.int8) for size in range(70)}, file)
    loaded = torch.load(file, weights_only=True, mmap=True)
    assert all(loaded[f"w{size}"].data_ptr() % 64 == 0 for size in range(1, 70))
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert [names[0], *names[-1:]] == ["archive/data.pkl", "archive/version"]
        assert (archive.read("archive/version"), archive.read("archive/byteorder")) == (b"3\n", b"little")


def test_no_tensors_are_an_empty_state_dict(file: Path) -> None:
    write({}, file)
    assert dict(torch.load(file, weights_only=True)) == {}


def test_the_same_state_gives_the_same_file(file: Path) -> None:
    write(arrays("float32"), file)
    first = file.read_bytes()
    write(arrays("float32"), file)
    assert file.read_bytes() == first


def test_the_version_of_the_network_is_said(file: Path) -> None:
    write(arrays("float32"), file)
    assert torch.load(file, weights_only=True)._metadata == {"": {"version": 2}}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "array",
    [np.array(["a"]), np.zeros(2, ml_dtypes.int4), np.zeros(2, ml_dtypes.float8_e3m4), np.array([None])],
    ids=["text", "int4", "float8_e3m4", "object"],
)
def test_a_dtype_that_the_format_does_not_have_is_named(tmp_path: Path, suffix: str, array: np.ndarray) -> None:
    with pytest.raises(UserError, match=rf"fc\.weight is {array.dtype.name}"):
        write({"fc.weight": array}, tmp_path / f"weights{suffix}")
    assert not list(tmp_path.iterdir())


def test_safetensors_takes_arrays_of_any_layout(tmp_path: Path) -> None:
    state: dict[str, Any] = arrays("float32")
    write(state, tmp_path / "weights.safetensors")
    from safetensors.torch import load_file

    for key, tensor in load_file(tmp_path / "weights.safetensors").items():
        assert (tuple(tensor.shape), bits(tensor)) == (state[key].shape, state[key].tobytes()), key
