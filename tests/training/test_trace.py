"""A trace of some steps, on request."""

from pathlib import Path

from jaxft import train
from tests.small import call

pytest_plugins = ("tests.runs",)


def test_steps_are_traced_by_the_profiler(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = call(train.main, "--config", config_file, "--workdir", run, "--hardware.profile", 2, 3)
    assert result.code == 0, result
    assert len(list((run / "profile").rglob("*.xplane.pb"))) == 1
    assert "% steps, " in result.out.partition("Time: ")[2]


def test_a_run_that_ends_within_a_trace_keeps_it(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call(train.main, "--config", config_file, "--workdir", run, "--hardware.profile", 6, 600).code == 0
    assert len(list((run / "profile").rglob("*.xplane.pb"))) == 1


def test_steps_out_of_order_are_refused(config_file: Path, tmp_path: Path) -> None:
    arguments = ("--config", config_file, "--workdir", tmp_path / "run", "--hardware.profile", 3, 2)
    result = call(train.main, *arguments)
    assert result.code == 2
    assert "profile is (3, 2); it is the first and the last step of a trace" in result.err
    assert not (tmp_path / "run").exists()
