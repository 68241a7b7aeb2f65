"""The guides' code runs as it stands, from top to bottom, without a network."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxft.checks import check_used
from jaxft.cli import parse
from tests.small import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_guide_to_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```") // 2 > 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("socket.socket.connect", None)
    names: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        code = "\n" * text[: block.start(1)].count("\n") + block[1]  # so that a traceback has the page's line
        exec(compile(code, "docs/python.md", "exec"), names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pth", "net.pth.json", "net.safetensors", "run"]
    printed = capsys.readouterr().out
    assert "294 of 296 source keys mapped, 2 skipped; 2 of our leaves are new" in printed
    assert "72 of 296 source keys mapped, 0 skipped, 224 deleted by model.edits; 9 of our leaves are new" in printed
    assert "'probabilities': {'red': " in printed


def commands(page: str) -> list[list[str]]:
    """The commands of a page that start Python, as words, in its order."""
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    lines = re.findall(r"^    (python -m .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[2:] for line in lines]


def test_the_commands_on_fine_tuning_are_understood() -> None:
    found = [words[1:] for words in commands("fine-tuning.md") if words[0] == "jaxft.train" and "--help" not in words]
    assert len(found) > 12
    for arguments in found:
        if "--resume" not in arguments:
            options, _ = parse(arguments)
            check_used(options.settings)


@pytest.mark.slow
def test_the_commands_on_fine_tuning_run(tmp_path: Path) -> None:
    """In their order, on a part of the digits; those on photos of one's own are left out."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAXFT_CACHE": str(tmp_path / "cache")}
    ran = 0
    for words in commands("fine-tuning.md"):
        if {"FOLDER", "photos"} & set(words):
            continue
        part = ["--data.subset", "0.1"] if any("digits" in word for word in words) and "--subset" not in words else []
        command = [sys.executable, "-m", *words, *(part if words[0] in ("jaxft.train", "jaxft.lr_find") else [])]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        ran += 1
    assert ran > 20
