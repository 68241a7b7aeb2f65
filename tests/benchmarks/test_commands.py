"""Every benchmark runs, at small sizes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import ROOT

SMALL = {
    "zoo": "--models squeezenet1_1 --batch 1 --rounds 1 --torch eager",
    "steps": "--models resnet18 --batch 2 --size 32 --rounds 1 --torch eager",
    "detectors": "--models retinanet_resnet50_fpn --batch 1 --height 64 --width 64 --rounds 1 --torch eager",
    "detection_ops": "--rois 8 --channels 4 --boxes 40 --rounds 1",
    "attention": "--batch 1 --tokens 5 --heads 2 --width 4 --rounds 1 --torch eager",
    "gpu": "--tiny --parts resnet50 gradients --torch eager",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", *SMALL[name].split(), "--json", str(tmp_path / "out.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert rows
    assert all("error" not in program for row in rows for program in row["programs"].values())


def test_parts_without_time_are_skipped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--minutes", "0", "--json", str(tmp_path / "out.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["resnet50", "gradients", "mask_rcnn", "vit_b_16"]
    assert all(row["skipped"] == "no time is left" for row in rows)
