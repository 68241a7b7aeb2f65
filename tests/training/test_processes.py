"""Two processes of one run do what one process does."""

import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.small import Result, execute, final, interrupted, lines, start, user_error

pytest_plugins = ("tests.runs",)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes(*arguments: object, count: int = 2, module: str = "tests.small") -> list[Result]:
    """The same command in `count` processes of one device each, that find each other on this machine."""
    shared = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_NUM_CPU_DEVICES": "1",
    }
    running = [start(module, *arguments, "--distributed", **shared, JAX_PROCESS_ID=str(i)) for i in range(count)]
    outputs = []
    for process in running:
        try:
            outputs.append(process.communicate(timeout=300))
        except subprocess.TimeoutExpired:  # one waits for another that has failed; what they said tells why
            for other in running:
                other.kill()
            outputs.append(process.communicate())
    return [Result(process.returncode, *output) for process, output in zip(running, outputs, strict=True)]


@pytest.fixture(scope="module")
def pair(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    run = tmp_path_factory.mktemp("pair") / "run"
    return run, processes("--config", config_file, "--workdir", run)


def test_two_processes_train_as_one(small_run: Path, pair: tuple[Path, list[Result]]) -> None:
    run, results = pair
    assert [result.code for result in results] == [0, 0], results
    (step, ours), (other_step, others) = final(run), final(small_run)
    assert step == other_step
    for path, array in ours.items():
        np.testing.assert_allclose(array, others[path], rtol=1e-4, atol=1e-5, err_msg=path)
    for line, other in zip(lines(run), lines(small_run), strict=True):
        assert (line["step"], line["split"]) == (other["step"], other["split"])
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_files_are_written_once(small_run: Path, pair: tuple[Path, list[Result]]) -> None:
    run, results = pair
    assert len(list(run.glob("tensorboard/*"))) == 1
    assert {path.name for path in run.iterdir()} == {path.name for path in small_run.iterdir()}
    assert "(best)" in results[0].out
    assert "(best)" not in results[1].out


def test_two_processes_go_on_with_what_one_began(small_run: Path, config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupted(config_file, run, 5, "--checkpoint-every", 1)
    results = processes("--workdir", run, "--resume")
    assert [result.code for result in results] == [0, 0], results
    (step, ours), (_, others) = final(run), final(small_run)
    assert step == 6
    for path, array in ours.items():
        np.testing.assert_allclose(array, others[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_processes_that_are_not_named(config_file: Path, tmp_path: Path) -> None:
    result = execute("tests.small", "--config", config_file, "--workdir", tmp_path / "run", "--distributed")
    assert "JAX_COORDINATOR_ADDRESS" in user_error(result)
    assert not (tmp_path / "run").exists()
