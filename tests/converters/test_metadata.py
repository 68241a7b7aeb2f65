"""What a checkpoint says beside its weights, there and back."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from converters.files import read, read_classes, read_metadata, write
from jaxft.errors import UserError

WEIGHTS = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
METADATA: dict[str, Any] = {
    "dataset_meta": {"classes": ["cat", "Hündin", "犬"], "palette": [[1, 2, 3]]},
    "preprocessing": {"mean": [0.485, 0.456], "size": 224, "crop": None, "bgr": False},
    "large": -(2**70),
    "text": 'quotes " and \n lines \\ \x00',
}
SUFFIXES = pytest.mark.parametrize("suffix", [".pth", ".safetensors"])


@SUFFIXES
def test_metadata_comes_back_beside_the_weights(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    write(WEIGHTS, path, METADATA)
    assert read_metadata(path) == METADATA
    assert read_classes(path) == ("cat", "Hündin", "犬")
    state = read(path)
    assert state.keys() == WEIGHTS.keys()
    np.testing.assert_array_equal(state["fc.weight"], WEIGHTS["fc.weight"])


@SUFFIXES
@pytest.mark.parametrize("metadata", [None, {}])
def test_no_metadata_is_none(tmp_path: Path, suffix: str, metadata: dict[str, Any] | None) -> None:
    path = tmp_path / f"weights{suffix}"
    write(WEIGHTS, path, metadata)
    assert read_metadata(path) == {}
    assert read_classes(path) == ()


def test_pytorch_reads_it_in_the_shape_of_mmdetection(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    write(WEIGHTS, path, METADATA)
    content = torch.load(path, weights_only=True)
    assert list(content) == ["meta", "state_dict"]
    assert content["meta"] == METADATA
    linear = torch.nn.Linear(3, 2, bias=False)
    linear.load_state_dict({"weight": content["state_dict"]["fc.weight"]})
    np.testing.assert_array_equal(linear.weight.detach().numpy(), WEIGHTS["fc.weight"])
    assert content["state_dict"]._metadata == {"": {"version": 2}}


def test_safetensors_holds_it_as_json_in_one_text(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write(WEIGHTS, path, METADATA)
    with safe_open(path, "numpy") as file:
        assert {name: json.loads(text) for name, text in file.metadata().items()} == {"jaxft": METADATA}


@SUFFIXES
def test_tuples_come_back_as_lists_and_numpys_numbers_as_numbers(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    write(WEIGHTS, path, {"classes": ("a", "b"), "mean": np.float64(0.5)})
    assert read_metadata(path) == {"classes": ["a", "b"], "mean": 0.5}
    assert type(read_metadata(path)["mean"]) is float


@SUFFIXES
def test_what_is_not_plain_is_not_written(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write(WEIGHTS, tmp_path / f"weights{suffix}", {"mean": np.zeros(3)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is no JSON"), ("[" * 100_000, "is no JSON"), ("[1]", None), ("3", None)]
)
def test_damaged_metadata_is_refused_and_the_weights_are_read(tmp_path: Path, text: str, message: str | None) -> None:
    path = tmp_path / "weights.safetensors"
    place = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"__metadata__": {"jaxft": text}, "w": place}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert read(path)["w"].tolist() == [0, 0]
    if message is None:
        assert read_metadata(path) == {}
    else:
        with pytest.raises(UserError, match=message):
            read_metadata(path)


def test_a_file_that_is_missing_or_damaged_has_no_metadata(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        with pytest.raises(UserError, match="is missing"):
            read_metadata(path)
        write(WEIGHTS, path, METADATA)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(UserError, match=r"damaged|not a readable"):
            read_metadata(path)
