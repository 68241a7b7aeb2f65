"""Nothing relies on the graph mode of Flax NNX, whose default is about to change."""

from pathlib import Path

from tests.small import assert_equal_runs, execute

pytest_plugins = ("tests.runs",)
OFF = {"NNX_GRAPH_MODE": "false", "NNX_GRAPH_UPDATES": "false"}


def test_a_run_is_the_same_without_it(small_run: Path, config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = execute("tests.small", "--config", config_file, "--workdir", run, **OFF)
    assert result.code == 0, result
    assert_equal_runs(run, small_run)
