"""Annotation files with anything at any place end in a sentence, soon and in little memory."""

import subprocess
import sys

import pytest

from tests.small import ROOT

QUIET = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"  # see pyproject.toml


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_file_is_read_or_refused(count: int) -> None:
    command = [sys.executable, "-W", "error", "-W", QUIET, "-m", "tests.tasks.detection.generated_files", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    print(done.stdout)
    assert f"{count} COCO files" in done.stdout
