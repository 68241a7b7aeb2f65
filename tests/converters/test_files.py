import argparse
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from converters.files import read, write
from converters.sources import load
from jaxft.errors import UserError

torch = pytest.importorskip("torch")

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7,
    "bn.running_var": np.array([1e-30, 3.0], np.float32),
    "bn.num_batches_tracked": np.array(2**40, np.int64),
    "half": np.array([0.1, -2.0], np.float16),
    "empty": np.zeros((0, 3), np.float32),
}


def tensors() -> dict[str, Any]:
    return {key: torch.from_numpy(array.copy()) for key, array in ARRAYS.items()}


def assert_same(state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray] = ARRAYS) -> None:
    assert state.keys() == expected.keys()
    for key, array in expected.items():
        assert (state[key].dtype, state[key].shape) == (array.dtype, array.shape), key
        assert state[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_pytorch_file_is_read(tmp_path: Path, suffix: str, legacy: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(tensors(), path, _use_new_zipfile_serialization=not legacy)
    assert_same(read(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_bfloat16_is_read_without_loss(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    array = np.array([1.0, 3.14159, -1e30], ml_dtypes.bfloat16)
    if suffix == ".pth":
        torch.save({"w": torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)}, path)
    else:
        safetensors.numpy.save_file({"w": array}, path)
    assert_same(read(path), {"w": array})


def wrapped(kind: str) -> Any:
    inside = tensors()
    module = {f"module.{key}": value for key, value in inside.items()}
    return {
        "state_dict": {"state_dict": inside, "epoch": 3, "args": "--lr 1"},
        "model": {"model": inside, "optimizer": {"state": {}, "param_groups": []}},
        "ema": {"ema": module, "best": 0.5},
        "nested": {"model": {"state_dict": {f"_orig_mod.{key}": value for key, value in module.items()}}},
        "module": module,
        "module twice": {f"module.{key}": value for key, value in module.items()},
        "compiled": {f"module._orig_mod.{key}": value for key, value in inside.items()},
        "Lightning": {"state_dict": {f"model.{key}": value for key, value in inside.items()}, "epoch": 3,
                      "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1}},
        "torchvision's references": {"model": inside, "optimizer": {"state": {}}, "epoch": 3,
                                     "args": argparse.Namespace(lr=0.1), "model_ema": {"n_averaged": torch.tensor(7)}},
        "averaged": {"model_ema": {"n_averaged": torch.tensor(7), **module}},
        "timm": {"arch": "resnet18", "state_dict": inside, "state_dict_ema": {}, "args": argparse.Namespace()},
        "parameters": {key: torch.nn.Parameter(value) if value.is_floating_point() else value
                       for key, value in inside.items()},
    }[kind]  # fmt: skip


KINDS = ["state_dict", "model", "ema", "nested", "module", "module twice", "compiled", "Lightning",
         "torchvision's references", "averaged", "timm", "parameters"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_training_scripts_wrap_around_a_state_dict_is_taken_off(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(wrapped(kind), path)
    assert_same(read(path))


def test_one_of_several_state_dicts_is_chosen_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    averaged = {f"module.{key}": value * 2 for key, value in tensors().items()}
    torch.save({"model": tensors(), "model_ema": {"n_averaged": torch.tensor(7), **averaged}, "epoch": 3}, path)
    assert_same(read(path))
    assert_same(load(str(path)))
    doubled = {key: array * 2 for key, array in ARRAYS.items()}
    assert_same(read(path, "model_ema"), doubled)
    assert_same(load(f"{path}#model_ema"), doubled)
    with pytest.raises(UserError, match=r"has no entry ema; its entries are model, model_ema\."):
        load(f"{path}#ema")
    (tmp_path / "odd#name.pth").write_bytes(path.read_bytes())
    assert_same(load(str(tmp_path / "odd#name.pth")))
    write(ARRAYS, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="holds tensors alone and no entry model_ema; leave out #model_ema"):
        load(f"{tmp_path / 'a.safetensors'}#model_ema")


def test_an_archive_that_would_unpack_to_more_than_it_weighs_is_not_opened(tmp_path: Path) -> None:
    path, bomb = tmp_path / "weights.pth", tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(3_000_000)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"would unpack to 11 MB, more than its own size.*was not opened"):
        read(bomb)


def test_a_prefix_that_not_every_key_has_stays(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    arrays = {"module.a": np.ones(1, np.float32), "b": np.ones(1, np.float32)}
    safetensors.numpy.save_file(arrays, path)
    assert_same(read(path), arrays)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"weights{suffix}"
    write(ARRAYS | {"large": np.zeros(10_000, np.float32)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"weights\.\w+ is .*(damaged|not a readable).*"):
        read(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_legacy_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "weights.pth"
    torch.save(
        tensors() | {"large": torch.zeros(10_000)},
        path,
        _use_new_zipfile_serialization=False,
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"weights\.pth is damaged"):
        read(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\0", "damaged|not a readable"),
        (b"<html>404 not found</html>\n" * 20, "damaged|not a readable"),
        (b"PK\x03\x04" + b"\0" * 300, "damaged|not a readable"),
        (b"\x80\x02", "damaged|not a readable"),
        (np.random.default_rng(0).bytes(1000), "damaged|not a readable|holds no state dict"),
    ],
    ids=["empty", "a zero", "a web page", "the start of a zip", "the start of a pickle", "noise"],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"weights{suffix} .*({message})"):
        read(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(UserError, match="is missing"):
        read(path)
    path.mkdir()
    with pytest.raises(UserError, match="is a directory"):
        read(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"weights{suffix}"
    write(ARRAYS, path)

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(UserError, match=r"weights\.\w+ cannot be read .*Permission denied"):
        read(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [([1, 2], "list"), ({"epoch": 3}, "dict"), ({}, "dict"), (torch.zeros(2), "Tensor"), ({"model": {}}, "dict")],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any, found: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=f"holds no state dict.*a {found} was found"):
        read(path)


class Attack:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_code_in_a_checkpoint_is_named_and_never_run(tmp_path: Path, legacy: bool, beside: bool) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "was here"
    attack = Attack(trace)
    torch.save(
        {"model": tensors(), "args": attack} if beside else attack, path, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(UserError, match=rf"asks to import and run {os.system.__module__}\.system") as error:
        read(path)
    assert not trace.exists()
    assert "never runs code" in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / "folder" / f"weights{suffix}"
    write(ARRAYS, path)
    assert_same(read(path))
    assert list(path.parent.iterdir()) == [path]


def test_pytorch_loads_what_is_written_strictly(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    path = tmp_path / "weights.pth"
    state = {key: tensor.numpy() + 1 for key, tensor in model.state_dict().items()}
    write(state, path)
    model.load_state_dict(torch.load(path, weights_only=True), strict=True)
    assert_same({key: tensor.numpy() for key, tensor in model.state_dict().items()}, state)


def test_a_network_that_asks_for_a_version_loads_what_is_written(tmp_path: Path) -> None:
    net = pytest.importorskip("torchvision.models").mnasnet0_5(num_classes=3)
    write({key: tensor.numpy() for key, tensor in net.state_dict().items()}, tmp_path / "net.pth")
    net.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True), strict=True)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"weights{suffix}"
    write({"old": ARRAYS["conv.weight"]}, path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"could not be written .*No space left"):
        write(ARRAYS, path)
    monkeypatch.undo()
    assert_same(read(path), {"old": ARRAYS["conv.weight"]})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "file").write_text("a regular file")
    with pytest.raises(UserError, match=r"could not be written .*choose another place"):
        write(ARRAYS, tmp_path / "file" / f"weights{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(UserError, match="could not be written"):
        write(ARRAYS, tmp_path / f"folder{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", f"folder{suffix}"]
