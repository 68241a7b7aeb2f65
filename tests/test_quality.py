"""The code's own rules: lint, format, types, and a training loop that fits on a few pages."""

import subprocess
import sys

import pytest

from tests.small import ROOT


@pytest.mark.parametrize(
    "command",
    ["ruff check .", "ruff format --check .", "mypy"],
)
def test_tools_are_content(command: str) -> None:
    pytest.importorskip(command.split()[0])
    result = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_training_loop_is_short() -> None:
    assert len((ROOT / "jaxft" / "train.py").read_text().splitlines()) <= 300
