"""What commands import before they can know that they are wanted: help and plain mistakes need no JAX."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

import pytest

from jaxft import __main__
from jaxft.config import Config, Data
from jaxft.run import RunDirectory
from tests.small import ROOT, environment

pytest_plugins = ("tests.runs",)

HEAVY = (
    "jax",
    "flax",
    "optax",
    "orbax",
    "grain",
    "matplotlib",
    "tensorboardX",
    "torch",
    "pooch",
    "requests",
    "mmengine",
)
# Runs a module as `python -m` does and tells which of the heavy ones it has imported, and how it ended.
TOLD = """
import json, runpy, sys
module, heavy = sys.argv.pop(1), sys.argv.pop(1).split()
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    code = 0
except SystemExit as ended:
    code = ended.code or 0
print(json.dumps([code, [name for name in heavy if name in sys.modules]]))
"""


def told(module: str, *arguments: object, cwd: Path = ROOT) -> tuple[int, list[str], str]:
    """The exit code of a command, the heavy modules it imported, and what it printed."""
    command = [sys.executable, "-c", TOLD, module, " ".join(HEAVY), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300, check=True)
    *printed, last = done.stdout.splitlines()
    code, heavy = json.loads(last)
    return code, heavy, "\n".join(printed) + done.stderr


def test_the_check_itself_sees_what_is_imported() -> None:
    assert {"jax", "flax", "optax"} <= set(told("jaxft.training.step")[1])


@pytest.mark.parametrize("command", __main__.COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    code, heavy, printed = told("jaxft", command, "--help")
    assert (code, heavy) == (0, [])
    assert printed.startswith(f"usage: jaxft {command} ")


@pytest.mark.parametrize("pages", [["--help", "optimizer"], ["--help-all"], ["-h", "--config", "configs/hotdog.py"]])
def test_pages_of_help_import_nothing_heavy(pages: list[str]) -> None:
    assert told("jaxft.train", *pages)[:2] == (0, [])


Case = Callable[[Path], tuple[object, ...]]
HOTDOG = ("train", "--config", "jaxft:hotdog_lite0")


def run_of_nowhere(folder: Path, **data: str) -> RunDirectory:
    """The files of a run whose data are gone; its checkpoint is an empty folder."""
    run = RunDirectory(folder / "run")
    run.create(Config(data=Data(**data)), ("cat", "dog"), {"train": [], "validation": []}, {})
    run.checkpoints.mkdir()
    return run


def made(file: Path, content: bytes = b"mine") -> Path:
    file.write_bytes(content)
    return file


MISTAKES: dict[str, tuple[Case, str]] = {
    "a flag of train": (lambda _: (*HOTDOG, "--optimizer.learning-rat", 1), "--optimizer.learning-rat"),
    "a flag of evaluate": (lambda _: ("evaluate", "--runs", "x"), "--runs"),
    "a flag of inspect": (lambda _: ("inspect", "x.pth", "--modell", "y"), "--modell"),
    "a value": (lambda _: (*HOTDOG, "--data.batch-size", "many"), "--data.batch-size"),
    "a configuration": (lambda _: ("train", "--config", "nowhere.py"), "no configuration file nowhere.py"),
    "a shipped one": (lambda _: ("train", "--config", "jaxft:hotdg"), "the nearest are jaxft:hotdog"),
    "a section of help": (lambda _: ("train", "--help", "optimiser"), "did you mean 'optimizer'?"),
    "a work directory": (lambda tmp: (*HOTDOG, "--workdir", made(tmp / "x").parent), "exists already"),
    "a work directory below a file": (
        lambda tmp: (*HOTDOG, "--workdir", made(tmp / "file") / "run"), "cannot be written"),
    "weights": (lambda _: (*HOTDOG, "--pretrained.source", "nowhere.pth"), "nowhere.pth is missing"),
    "weights of another kind": (
        lambda tmp: (*HOTDOG, "--pretrained.source", made(tmp / "w.pth", b"<!DOCTYPE html>")), "w.pth is a web page"),
    "a package of weights": (
        lambda _: (*HOTDOG, "--pretrained.source", "package://nowhere/x.pth"), "nowhere is not installed"),
    "weights of torchvision": (
        lambda _: (*HOTDOG, "--pretrained.source", "torchvision://resnet19"), "the nearest are resnet18"),
    "a data folder": (
        lambda _: (*HOTDOG, "--data.root", "nowhere", "--data.url", "None"), "no folder nowhere with the data"),
    "a run to go on with": (lambda _: ("train", "--workdir", "nowhere", "--resume"), "not a whole run directory"),
    "a run to evaluate": (lambda _: ("evaluate", "--run", "nowhere"), "not a whole run directory"),
    "data to evaluate on": (
        lambda tmp: ("evaluate", "--run", run_of_nowhere(tmp, root=str(tmp / "gone")).path), "no folder"),
    "another folder to evaluate on": (
        lambda tmp: ("evaluate", "--run", run_of_nowhere(tmp, root=str(tmp)).path, "--root", "gone"), "no folder gone"),
    "a photo": (lambda _: ("predict", "--run", "nowhere", "photo.jpg"), "photo.jpg does not exist"),
    "a run to predict with": (lambda tmp: ("predict", "--run", "nowhere", made(tmp / "a.jpg")), "not a whole run"),
    "a file for predictions": (
        lambda tmp: ("predict", "--run", "nowhere", made(tmp / "a.jpg"), "--output", made(tmp / "b")), "is no folder"),
    "a run to export": (lambda _: ("export", "--run", "nowhere", "--output", "x.pth"), "not a whole run directory"),
    "an output of export": (
        lambda tmp: ("export", "--run", "nowhere", "--output", made(tmp / "x.pth")), "not overwritten"),
    "a checkpoint to inspect": (lambda _: ("inspect", "nowhere.pth", "--model", "resnet18"), "nowhere.pth is missing"),
    "an output of convert": (
        lambda tmp: ("convert", "a.pth", "--model", "resnet18", "--to", "torch", "--output", made(tmp / "x.pth")),
        "not overwritten"),
    "nothing to verify": (lambda _: ("verify",), "nothing to verify"),
    "a folder to survey": (lambda _: ("mmdet-coverage", "nowhere"), "no folder nowhere"),
    "a command": (lambda _: ("trian",), "did you mean 'train'?"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_before_anything_heavy_is_imported(name: str, tmp_path: Path) -> None:
    arguments, part = MISTAKES[name]
    code, heavy, printed = told("jaxft", *arguments(tmp_path))
    assert code == 2, printed
    assert heavy == []
    assert part in " ".join(printed.split())
    assert "Traceback" not in printed
    assert not (ROOT / "runs" / "hotdog_lite0").exists()


def test_a_model_that_is_not_known_is_named_before_the_data_are_opened(tmp_path: Path) -> None:
    """COCO's annotations take their time."""
    (tmp_path / "annotations").mkdir()
    made(tmp_path / "annotations" / "instances_train.json", b"no JSON")
    words = (
        "--data.source",
        "coco",
        "--data.root",
        tmp_path,
        "--model.name",
        "resnet19",
        "--workdir",
        tmp_path / "run",
    )
    printed = told("jaxft", "train", "--config", ROOT / "configs" / "retinanet_lite0_bccd.py", *words)[2]
    assert "no model named 'resnet19'" in printed


# One name for all commands


def test_without_a_command_all_are_listed() -> None:
    code, heavy, printed = told("jaxft")
    assert (code, heavy) == (2, [])
    code, heavy, asked = told("jaxft", "--help")
    assert (code, heavy) == (0, [])
    for text in (printed, asked):
        assert [line.split()[0] for line in text.splitlines() if line.startswith("  ")] == list(__main__.COMMANDS)


def test_the_console_script_is_that_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"].keys() == {"jaxft"}
    assert EntryPoint("jaxft", project["scripts"]["jaxft"], "console_scripts").load() is __main__.main


def test_a_command_is_the_same_under_each_of_its_names() -> None:
    forms = [("jaxft", "inspect"), ("jaxft.inspect",), ("converters", "inspect")]
    told_so = [told(*form, "nowhere.pth") for form in forms]
    assert told_so == [(2, [], "error: nowhere.pth is missing; a checkpoint file was expected.\n")] * 3
    for command in __main__.COMMANDS:
        assert find_spec(f"jaxft.{command.replace('-', '_')}") is not None
    assert told("jaxft.train", "--help")[2].startswith("usage: python -m jaxft.train ")


# The compile cache

COMMAND = """
import importlib
import tests.small
from jaxft.cli import run_command
run_command(importlib.import_module("jaxft.{}").main)
"""


def test_what_training_compiled_is_found_by_evaluation_and_prediction(
    config_file: Path, photos: Path, tmp_path: Path
) -> None:
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    settings = cache | {"JAXFT_ONEDNN": "0"}  # what has oneDNN cannot be kept
    run = tmp_path / "run"

    def execute(command: str, *arguments: object) -> set[str]:
        """The programs of a step in the cache after a command."""
        line = [sys.executable, "-c", COMMAND.format(command), *map(str, arguments)]
        subprocess.run(line, cwd=ROOT, env=environment(**settings), capture_output=True, timeout=300, check=True)
        return {path.name for path in (tmp_path / "cache").glob("jit_step-*-cache")}

    trained = execute("train", "--config", config_file, "--workdir", run, "--phases.0.epochs", 1)
    assert len(trained) == 2  # of training, and of evaluation
    assert execute("evaluate", "--run", run) == trained
    assert execute("predict", "--run", run, photos / "test") == trained
