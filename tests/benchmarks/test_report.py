"""The table and the file of a benchmark."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import sides
from benchmarks.report import Output, Report
from benchmarks.sides import Program, SideError, Timing

SLEEPING = "tests.benchmarks.programs:sleeping"


@dataclass
class Options:
    rounds: int = 1


def test_a_line_compares_with_the_faster_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sides, "PAUSE", 0.01)
    report = Report("name", Options(), Output(json=tmp_path / "figures.json"))
    mine = Program(SLEEPING, {"seconds": 0.04})
    report.compare("model", "training", mine, sides.theirs(SLEEPING, "best", seconds=0.2), 1)
    content = json.loads((tmp_path / "figures.json").read_text())
    (row,) = content["rows"]
    assert row["programs"]["eager"]["median"] >= 0.2 > row["programs"]["compiled"]["median"] >= 0.02
    assert row["ratio"] == row["programs"]["compiled"]["median"] / row["programs"]["jaxft"]["median"]
    assert row["compared"] == ["compiled", "jaxft"]
    assert content["options"] == {"rounds": 1}
    assert {"cpu", "cores", "packages", "date", "commit"} <= content["machine"].keys()
    assert f"{row['ratio']:.2f}" in capsys.readouterr().out


def test_a_program_that_was_not_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("name", Options(), Output(json=tmp_path / "figures.json"), unit="ms")
    outcomes = {"eager": SideError("eager: out of time."), "jaxft": Timing(1.0, "cpu", seconds=[0.5, 0.25, 1.0])}
    report.beside("model", "training", outcomes, "jaxft", "eager")
    assert report.failed
    printed = capsys.readouterr().out
    assert "500.0 (250.0 to 1000.0)" in printed
    assert "eager: out of time." in printed
    (row,) = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert row["ratio"] is None
    assert row["programs"]["eager"] == {"error": "eager: out of time."}
    assert row["programs"]["jaxft"]["seconds"] == [0.5, 0.25, 1.0]
