"""Checkpoints as MMEngine's runner writes them."""

import datetime
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.files import read, read_classes, write
from converters.pth_names import BESIDE_WEIGHTS, Inert
from converters.sources import locate
from jaxft.errors import UserError

torch = pytest.importorskip("torch")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    MessageHub = pytest.importorskip("mmengine.logging").MessageHub
    ConfigDict = pytest.importorskip("mmengine.config").ConfigDict

WEIGHTS = {"backbone.conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


def checkpoint(**meta: Any) -> dict[str, Any]:
    hub = MessageHub("run")
    hub.update_scalar("train/loss", 1.5)
    hub.update_scalar("train/loss", 2.0)
    hub.update_info("iter", 3)
    hub.update_info("score", np.float64(0.4))
    plain = {key: torch.from_numpy(value) for key, value in WEIGHTS.items()}
    return {
        "meta": {"epoch": 1, "time": datetime.datetime(2026, 11, 28), "seed": np.int64(7), **meta},
        "state_dict": plain,
        "ema_state_dict": {f"module.{key}": value * 2 for key, value in plain.items()} | {"steps": torch.tensor(5)},
        "message_hub": hub.state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "param_schedulers": [{"last_step": 4, "_global_step": np.int64(4)}],
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_the_weights_and_their_average_are_read(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "epoch_1.pth"
    torch.save(checkpoint(cfg="text"), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(Exception, match="Unsupported global"):
        torch.load(path, weights_only=True)
    for entry, factor in ((None, 1), ("ema_state_dict", 2)):
        state = read(path, entry)
        assert state.keys() == WEIGHTS.keys()
        for key, value in WEIGHTS.items():
            np.testing.assert_array_equal(state[key], value * factor)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"dataset_meta": {"classes": ("a", "b"), "palette": [(1, 2, 3)]}}, ("a", "b")),
        ({"dataset_meta": ConfigDict(classes=["a", "b"])}, ("a", "b")),
        ({"dataset_meta": {"CLASSES": ["a", "b"]}}, ("a", "b")),
        ({"CLASSES": ("a", "b"), "mmdet_version": "2.3.0"}, ("a", "b")),
        ({"CLASSES": "a"}, ("a",)),
        ({"CLASSES": None}, ()),
        ({"dataset_meta": {"classes": np.arange(2)}}, ()),
        ({}, ()),
    ],
)
def test_the_names_of_the_classes_are_read(tmp_path: Path, meta: dict[str, Any], expected: tuple[str, ...]) -> None:
    path = tmp_path / "epoch_1.pth"
    torch.save(checkpoint(**meta), path)
    assert read_classes(path) == expected


def test_a_file_of_weights_alone_has_no_class_names(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({key: torch.from_numpy(value) for key, value in WEIGHTS.items()}, path)
    assert read_classes(path) == ()
    write(WEIGHTS, tmp_path / "weights.safetensors")
    assert read_classes(tmp_path / "weights.safetensors") == ()


class Attack:
    """Unpickled, it would call something with something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda path: Attack(os.system, f"touch {path}"), rf"{os.system.__module__}\.system"),
        (lambda path: Attack(getattr, Attack(__import__, "os"), "system"), r"__import__"),
        (lambda path: Attack(Path.touch, path), r"pathlib\.(_local\.)?Path"),
        (lambda path: Attack(getattr, np.load, "__call__"), r"numpy\.load"),
        (lambda path: Attack(eval, f"open({str(path)!r}, 'w')"), "eval"),
    ],
)
def test_code_beside_what_mmengine_writes_is_named_and_never_run(tmp_path: Path, attack: Any, named: str) -> None:
    path, trace = tmp_path / "epoch_1.pth", tmp_path / "was here"
    torch.save(checkpoint(hook_msgs=attack(trace)), path)
    with pytest.raises(UserError, match=named):
        read(path)
    assert not trace.exists()


def test_what_is_let_through_looks_nothing_up(tmp_path: Path) -> None:
    path, trace = tmp_path / "epoch_1.pth", tmp_path / "was here"
    torch.save(checkpoint(hook_msgs=Attack(getattr, Attack(getattr, "", "__class__"), "__base__")), path)
    assert read(path).keys() == WEIGHTS.keys()
    assert not trace.exists()
    assert not {name for name in BESIDE_WEIGHTS if name.startswith(("os.", "subprocess.", "shutil."))}
    assert vars(Inert("anything", 3)) == {}


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    torch.save(checkpoint(), path)
    content = path.read_bytes()
    for share in (0.2, 0.6, 0.95):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match=r"epoch_1\.pth is damaged"):
            read(path)


def test_openmmlab_names_become_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def fetch(url: str, *_: Any) -> Path:
        asked.append(url)
        return tmp_path

    monkeypatch.setattr("converters.sources.fetch", fetch)
    locate("open-mmlab://detectron2/resnet50_caffe")
    locate("open-mmlab://resnet50_caffe")
    assert [url.rpartition("/")[2] for url in asked] == ["resnet50_msra-5891d200.pth", "resnet50_caffe-788b5fa3.pth"]
    with pytest.raises(UserError, match=r"detectron2/resnet50_cafe: .* nearest are detectron2/resnet50_caffe"):
        locate("open-mmlab://detectron2/resnet50_cafe")
