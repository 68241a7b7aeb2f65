"""Help of training by sections, the alarms of XLA, and folders of folders to predict."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from jaxft import train
from jaxft.config import Config, load
from jaxft.help import REST
from jaxft.predict import find_photos
from jaxft.predict import main as predict
from tests.small import ROOT, call, environment, user_error

pytest_plugins = ("tests.runs",)

SECTIONS = [
    *(
        "task",
        "model",
        "pretrained",
        "distillation",
        "data",
        "optimizer",
        "phases",
        "ema",
        "early_stopping",
        "hardware",
    ),
    REST,
]


def flags(text: str) -> set[str]:
    """The options that a page lists, which lie in several columns where there is room. Where there is none, the other
    form of a switch, `--no-auto-scale-lr`, begins a line, too."""
    found = set(re.findall(r"[│ ] (--[a-z][a-z0-9.-]*)(?: |,)", text))
    return {flag for flag in found if not re.search(r"(--|\.)no-", flag)}


def page(*arguments: object) -> str:
    result = call(train.main, *arguments)
    assert (result.code, result.err) == (0, ""), result
    return result.out


def test_help_shows_the_commands_own_options_and_the_sections() -> None:
    text = page("--help")
    assert flags(text) >= {"--config", "--workdir", "--resume", "--dry-run", "--full", "--compile", "--distributed"}
    assert not [flag for flag in flags(text) if "." in flag or flag == "--seed"]
    listed = text.partition("sections of the configuration")[2]
    assert [line.split()[1] for line in listed.splitlines() if re.match(r"│ \w", line)] == SECTIONS
    assert "optimizer       The optimizer, with PyTorch's meaning of every number." in listed
    assert "python -m jaxft.train --help task shows a section, --help-all shows all" in listed


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_a_page_of_its_own(section: str) -> None:
    found = flags(page("--help", section))
    if section == REST:
        nested = {name for name in SECTIONS if name != REST}
        fields = {field.name for field in dataclasses.fields(Config)} - nested
        assert found == {f"--{name.replace('_', '-')}" for name in fields}
    else:
        assert found
        assert all(flag.startswith(f"--{section.replace('_', '-')}.") for flag in found), found


def test_several_sections_can_be_named_and_all_be_asked_for() -> None:
    two = flags(page("--help", "data", "model"))
    assert two == flags(page("--help", "data")) | flags(page("-h", "model"))
    pages = set().union(*(flags(page("--help", section)) for section in SECTIONS))
    assert flags(page("--help-all")) == pages | flags(page("--help"))
    assert len(pages) > 50


def test_a_page_shows_the_values_of_the_configuration(config_file: Path) -> None:
    assert "The rate that phases, rules and schedules multiply. (default: 0.05)" in " ".join(
        page("--config", config_file, "--help", "optimizer").replace("│", " ").split()
    )
    assert "--task.max-objects" not in page("--help", "task", "--config", "jaxft:hotdog")
    assert "--task.max-objects" in page("--help", "task", "--config", "jaxft:retinanet_lite0_bccd")


def test_a_section_that_is_not_there_is_named() -> None:
    assert "no section 'optimiser'; did you mean 'optimizer'?" in user_error(call(train.main, "--help", "optimiser"))
    assert f"They are {', '.join(SECTIONS)}." in user_error(call(train.main, "--help", "xyzzy"))


# XLA's alarms

# Folding this constant takes XLA up to jaxlib 0.10 seconds, after one of which it prints an alarm, by the same function
# as that of a slow compilation, which comes after two minutes; later ones have other things to say.
SLOW = """
from jaxft.cli import run_command

def main():
    import jax, numpy as np
    pixels = np.arange(100 * 100, dtype=np.float32).reshape(100, 100)
    window = lambda x: x + jax.lax.reduce_window(pixels, 0.0, jax.lax.add, (20, 20), (1, 1), "VALID").sum()
    print(jax.jit(window)(1.0))

run_command(main)
"""


def test_alarms_of_xla_are_kept_from_the_screen_unless_they_are_asked_for() -> None:
    unset = ("TF_CPP_MIN_LOG_LEVEL", "JAX_COMPILATION_CACHE_DIR")
    plain = {name: value for name, value in environment().items() if name not in unset}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for variables in (plain, plain | {"TF_CPP_MIN_LOG_LEVEL": "0"})
    ]
    (_, quiet), (_, loud) = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], quiet + loud
    assert quiet == ""
    assert "slow_operation_alarm" in loud or "pjrt" in loud


# Photos to predict


def test_photos_are_found_in_folders_of_folders(tmp_path: Path) -> None:
    wanted = ["a.png", "day 1/b.JPG", "day 1/morning/c.webp", "day 2/d.jpeg"]
    for name in [*wanted, "notes.txt", "day 2/.DS_Store"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_photos([tmp_path]) == [tmp_path / name for name in wanted]
    first = tmp_path / "day 2"
    assert find_photos([first, tmp_path / "a.png"]) == [first / "d.jpeg", tmp_path / "a.png"]


def test_folders_of_folders_are_predicted(small_run: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "test", tmp_path / "in" / "deep")
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "top.png")
    result = call(predict, "--run", small_run, "--output", tmp_path / "out", tmp_path / "in")
    assert result.code == 0, result
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    files = sorted(path for path in (tmp_path / "in").rglob("*") if path.is_file())
    assert [entry["file"] for entry in entries] == [str(file) for file in files]
    assert len(files) == 11


def test_help_does_not_depend_on_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("jaxft:digits").data.source == "digits"
    assert "(default: digits)" in page("--config", "jaxft:digits", "--help", "data")
    assert os.listdir(tmp_path) == []
