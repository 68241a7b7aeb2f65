"""The proof that a run that is stopped goes on as the same run, and that it sees where it does not."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxft import train, verify_resume
from jaxft.verify_resume import compared
from tests.small import HEAD_ALONE, call, user_error, write_config

pytest_plugins = ("tests.runs",)


@pytest.fixture(scope="module")
def config(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The head of a network that every process knows."""
    folder = tmp_path_factory.mktemp("proof")
    phases = HEAD_ALONE.replace("'fc'", "'classifier'")
    return write_config(folder / "configs" / "head.py", photos, model="squeezenet1_1", phases=phases)


@pytest.mark.parametrize("more", [(), pytest.param(("--devices", 1), marks=pytest.mark.slow)])
def test_a_run_that_is_resumed_is_the_same_run(config: Path, more: tuple[object, ...]) -> None:
    result = call(verify_resume.main, "--config", config, "--steps", 4, "--stop-after", 2, *more, "--json")
    assert result.code == 0, result
    found = json.loads(result.out)
    assert found["different"] == {"the same devices": []} | ({"1 device(s)": []} if more else {})
    same = {row["what"]: row for row in found["resumed on"]["the same devices"]}
    assert list(same) == [
        *("number of steps", "parameters and statistics", "optimizer state"),
        *("metrics of each step: data, augmentation, dropout", "evaluations"),
    ]
    assert all((row["largest"], row["allowed"]) == (0, 0) for row in same.values())
    assert same["parameters and statistics"]["arrays"] > 50


def test_what_is_out_of_range_is_refused(config: Path) -> None:
    message = user_error(call(verify_resume.main, "--config", config, "--steps", 3, "--stop-after", 3))
    assert message.startswith("--stop-after is 3 and --steps 3")


def test_differences_are_found(small_run: Path, config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = call(train.main, "--config", config_file, "--workdir", run, "--optimizer.learning-rate", 0.0501)
    assert result.code == 0
    rows = {row.what: row for row in compared(run, small_run, 1e-7)}
    assert rows["number of steps"].largest == 0
    for what in ("parameters and statistics", "optimizer state", "evaluations"):
        assert 1e-7 < rows[what].largest < np.inf
        assert rows[what].where
    assert all(row.largest == 0 and row.where == "" for row in compared(small_run, small_run, 0))
