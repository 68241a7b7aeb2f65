"""What a person can get wrong: code 2, one clear sentence, no traceback, nothing written and nothing lost."""

import errno
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from converters import to_torch
from converters.files import write
from jaxft import export, train
from jaxft.errors import NOT_FINITE
from jaxft.evaluate import main as evaluate_main
from jaxft.predict import main as predict_main
from jaxft.reporting.progress import Reporter
from tests.small import CLASSES, Small, call, execute, final, paint, user_error

pytest_plugins = ("tests.runs",)

Arguments = tuple[object, ...]
Case = Callable[[Path], Arguments]


def no_folder(tmp_path: Path) -> Arguments:
    return ("--data.root", tmp_path / "nowhere")


def empty_class(tmp_path: Path) -> Arguments:
    for split in ("train", "test"):
        paint(tmp_path / "photos" / split / "blue", 8, 0, 0)
        (tmp_path / "photos" / split / "green").mkdir()
    return ("--data.root", tmp_path / "photos")


def one_class(tmp_path: Path) -> Arguments:
    for split in ("train", "test"):
        paint(tmp_path / "photos" / split / "blue", 8, 0, 0)
    return ("--data.root", tmp_path / "photos")


def other_classes(tmp_path: Path) -> Arguments:
    for split, second in (("train", "green"), ("test", "grass")):
        paint(tmp_path / "photos" / split / "blue", 8, 0, 0)
        paint(tmp_path / "photos" / split / second, 8, 1, 0)
    return ("--data.root", tmp_path / "photos")


def damaged_photo(tmp_path: Path) -> Arguments:
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            paint(tmp_path / "photos" / split / name, 8, label, 0)
    photo = tmp_path / "photos" / "train" / "green" / "04.jpg"
    photo.write_bytes(photo.read_bytes()[:300])
    return ("--data.root", tmp_path / "photos")


def weights(tmp_path: Path, classes: int = 7) -> Path:
    """A PyTorch checkpoint of the small network."""
    write(to_torch(Small(classes, rngs=nnx.Rngs(0))), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def other_architecture(tmp_path: Path) -> Arguments:
    return ("--pretrained.source", weights(tmp_path), "--model.name", "resnet18", "--pretrained.skip", "fc")


def head_not_skipped(tmp_path: Path) -> Arguments:
    return ("--pretrained.source", weights(tmp_path))


def truncated(tmp_path: Path) -> Arguments:
    file = weights(tmp_path)
    file.write_bytes(file.read_bytes()[:700])
    return ("--pretrained.source", file)


class Hostile:
    """Unpickled, it would write a file."""

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.system, ("touch pwned",)


def hostile(tmp_path: Path) -> Arguments:
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps({"fc.weight": Hostile()}))
    return ("--pretrained.source", tmp_path / "hostile.pth")


def hostile_archive(tmp_path: Path) -> Arguments:
    torch.save({"fc.weight": Hostile()}, tmp_path / "hostile.pth")
    return ("--pretrained.source", tmp_path / "hostile.pth")


def always(*arguments: object) -> Case:
    return lambda _: arguments


CASES: dict[str, tuple[Case, list[str]]] = {
    "no data folder": (no_folder, ["nowhere"]),
    "empty class": (empty_class, ["No images", "green"]),
    "one class": (one_class, ["blue"]),
    "other classes in the test split": (other_classes, ["green", "grass"]),
    "a damaged photo": (damaged_photo, ["1 of the 24 images", "04.jpg"]),
    "wrong class count": (always("--model.num-classes", 4), ["is 4", "3 classes blue, green, red"]),
    "unknown model": (always("--model.name", "resnet19"), ["'resnet19'", "resnet18"]),
    "no weights": (always("--pretrained.source", "nowhere.pth"), ["nowhere.pth"]),
    "weights of another network": (
        other_architecture,
        ["does not fit this ResNet", "layer1.0.bn1", "more; python -m jaxft.inspect"],
    ),
    "head not skipped": (head_not_skipped, ["fc.weight has shape (7, 8), the model wants (3, 8)"]),
    "truncated weights": (truncated, ["small.pth", "truncated"]),
    "a hostile pickle": (hostile, ["hostile.pth", "hostile", "runs nothing from a file"]),
    "a hostile archive": (hostile_archive, ["hostile.pth", "system", "never runs code"]),
    "no network": (
        always("--pretrained.source", "http://127.0.0.1:1/weights.pth"),
        ["http://127.0.0.1:1/weights.pth", "could not be downloaded", "no connection"],
    ),
    "no network for the data": (
        always("--data.root", "nowhere", "--data.url", "http://127.0.0.1:1/data.zip", "--data.sha1", "0" * 40),
        ["http://127.0.0.1:1/data.zip", "--data.root"],
    ),
    "a pattern that matches nothing": (
        always("--phases.0.rules.0.pattern", "head"),
        ["'head' is the first match of no parameter", "bn1, bn2, conv1, conv2, fc"],
    ),
    "a skip that matches nothing": (
        lambda tmp_path: ("--pretrained.source", weights(tmp_path, 3), "--pretrained.skip", "head"),
        ["'head' matches nothing"],
    ),
    "a batch larger than the data": (always("--data.batch-size", 26), ["A batch of 26", "24 training examples"]),
    "a batch that devices cannot share": (
        always("--data.batch-size", 7),
        ["A batch of 7", "multiple of 2"],
    ),
    "parts that do not divide the batch": (always("--optimizer.accumulate", 3), ["3 equal part", "multiple of 6"]),
    "a warm-up longer than the phase": (always("--phases.0.schedule.warmup", 60), ["warm-up of 60 steps"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_start_is_explained_and_writes_nothing(
    name: str, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))
    case, parts = CASES[name]
    run = tmp_path / "run"
    message = user_error(call(train.main, "--config", config_file, "--workdir", run, *case(tmp_path)))
    assert not [part for part in parts if part not in message], message
    assert not run.exists()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["no data folder", "a hostile pickle", "a batch that devices cannot share"])
def test_the_same_in_a_real_process(name: str, config_file: Path, tmp_path: Path) -> None:
    case, parts = CASES[name]
    result = execute("tests.small", "--config", config_file, "--workdir", tmp_path / "run", *case(tmp_path))
    message = user_error(result)
    assert result.err.startswith("error: ")
    assert not [part for part in parts if part not in message], message
    assert not (tmp_path / "run").exists()
    assert not Path("pwned").exists()


def test_weights_that_fit_do_start(config_file: Path, tmp_path: Path) -> None:
    """The control of the cases above: the same files, not damaged, are taken."""
    arguments = ("--pretrained.source", weights(tmp_path), "--pretrained.skip", "fc", "--dry-run")
    assert call(train.main, "--config", config_file, "--workdir", tmp_path / "run", *arguments).code == 0


# The disk


def test_a_run_directory_below_a_file(config_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    message = user_error(call(train.main, "--config", config_file, "--workdir", tmp_path / "file" / "run"))
    assert "cannot be written" in message
    assert "--workdir" in message
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_is_full_at_a_checkpoint(config_file: Path, tmp_path: Path) -> None:
    run, real = tmp_path / "run", ocp.CheckpointManager.save

    def save(manager: ocp.CheckpointManager, step: int, **rest: object) -> bool:
        if step > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(manager, step, **rest)

    with mock.patch.object(ocp.CheckpointManager, "save", save):
        result = call(train.main, "--config", config_file, "--workdir", run)
    message = user_error(result)
    assert "No space left" in message
    assert "the one before it stays" in message
    assert final(run)[0] == 3


def test_a_disk_that_is_full_at_the_metrics(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    full = OSError(errno.ENOSPC, "No space left on device", str(run / "metrics.jsonl"))
    real = Reporter._write

    def write(reporter: Reporter, step: int, *rest: object) -> None:
        if step > 3:
            raise full
        real(reporter, step, *rest)  # type: ignore[arg-type]

    with mock.patch.object(Reporter, "_write", write):
        message = user_error(call(train.main, "--config", config_file, "--workdir", run))
    assert "No space left" in message
    assert final(run)[0] == 3


@pytest.mark.parametrize("limit", [500, 4500], ids=["the configuration", "what comes later"])
def test_files_that_may_not_grow(config_file: Path, tmp_path: Path, limit: int) -> None:
    """A real limit of the operating system, met by the threads that write a checkpoint."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    jax.config.update("jax_enable_compilation_cache", False)  # which would keep half a program
    compilation_cache.reset_cache()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        result = call(train.main, "--config", config_file, "--workdir", tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()
    message = user_error(result)
    assert "written" in message
    assert "File too large" in message


# Numbers


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("--optimizer.learning-rate", 1e30, "--log-every", 1)
    message = user_error(call(train.main, "--config", config_file, "--workdir", run, *arguments), code=NOT_FINITE)
    assert "not finite in step" in message
    assert "--optimizer.learning-rate" in message
    step, arrays = final(run)
    assert f"of step {step}, is saved" in message
    assert all(np.isfinite(array).all() for array in arrays.values())


# Finished runs


FINISHED = [(evaluate_main, ()), (predict_main, ("photo.png",)), (export.main, ("--output", "model.pth"))]
DAMAGES = ["no directory", "no config", "no classes", "no checkpoint"]


@pytest.mark.parametrize(
    ("main", "arguments", "damage"),
    # Training starts anew where only checkpoints are missing; test_resume.py covers that.
    [(train.main, ("--resume",), damage) for damage in DAMAGES[:3]]
    + [(main, arguments, damage) for main, arguments in FINISHED for damage in DAMAGES],
)
def test_a_directory_that_is_no_whole_run(
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    main: Callable[[], int | None],
    arguments: Arguments,
    damage: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    Image.new("RGB", (40, 40)).save("photo.png")
    if damage != "no directory":
        shutil.copytree(small_run, run)
    if damage == "no config":
        (run / "config.json").unlink()
    if damage == "no classes":
        (run / "classes.json").write_text("{")
    if damage == "no checkpoint":
        shutil.rmtree(run / "checkpoints")
    message = user_error(call(main, "--workdir" if main is train.main else "--run", run, *arguments))
    assert "run" in message
    assert not Path("model.pth").exists()
    assert jax.process_count() == 1
