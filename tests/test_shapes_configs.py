"""The configurations of generated pictures make a plan with their weights, and run, shrunk, on the small network."""

from pathlib import Path

import pytest

from jaxft import train
from tests.small import ROOT, call, lines

SHAPES = {path.stem: path for path in (ROOT / "configs").glob("shapes*.py")}
SMALL = (
    *("--model.name", "small", "--pretrained.source", "None", "--pretrained.skip"),
    *("--data.batch-size", 250, "--phases.0.epochs", 1),
)


@pytest.mark.parametrize("name", SHAPES)
def test_it_makes_a_plan(name: str, tmp_path: Path) -> None:
    result = call(train.main, "--config", SHAPES[name], "--workdir", tmp_path / "run", "--dry-run", "--full")
    assert result.code == 0, result
    assert "_fc.kernel" in result.out
    assert "1,000 images" in result.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "metric", "classes"),
    [("shapes_regression", "r2", ["x", "y", "size"]), ("shapes_multilabel", "mAP", ["circle", "square", "triangle"])],
)
def test_it_runs(name: str, metric: str, classes: list[str], tmp_path: Path) -> None:
    result = call(train.main, "--config", SHAPES[name], "--workdir", tmp_path / "run", *SMALL)
    assert result.code == 0, result
    assert f"best validation {metric}" in result.out
    *_, last = lines(tmp_path / "run")
    assert (last["step"], last["split"]) == (4, "validation")
    assert {metric, "loss"} <= last.keys()
    assert all(f'"{target}"' in (tmp_path / "run" / "classes.json").read_text() for target in classes)


def test_all_are_tested() -> None:
    assert SHAPES.keys() == {"shapes_regression", "shapes_multilabel"}
