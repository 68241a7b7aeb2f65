"""Two processes of one run do what one process does."""

import json
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxft.errors import INTERNAL, LOST, MEMORY, USER
from jaxft.evaluate import main as evaluate_main
from tests.small import (
    ROOT,
    Result,
    assert_equal_runs,
    call,
    execute,
    final,
    interrupted,
    lines,
    start,
    user_error,
    write_config,
)
from tests.training.test_resume import wait_for

pytest_plugins = ("tests.runs",)


def slowly(*values: object) -> Any:
    """A case for the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def begun(
    *arguments: object,
    count: int = 2,
    module: str = "tests.small",
    more: Sequence[Sequence[object]] = ((), (), (), ()),
    folders: Sequence[Path] = (ROOT,) * 4,
    **changes: str,
) -> list["subprocess.Popen[str]"]:
    """The same command in `count` processes of one device each, that find each other on this machine.

    Args:
        more: further arguments of each process.
        folders: where each of them works.
    """
    shared = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_NUM_CPU_DEVICES": "1",
    } | changes
    return [
        start(module, *arguments, *more[index], folder=folders[index], **shared, JAX_PROCESS_ID=str(index))
        for index in range(count)
    ]


def processes(*arguments: object, count: int = 2, module: str = "tests.small", **changes: str) -> list[Result]:
    """How such processes end."""
    return ended(begun(*arguments, count=count, module=module, **changes))


def ended(running: "Sequence[subprocess.Popen[str]]") -> list[Result]:
    """How processes end."""
    outputs = []
    for process in running:
        try:
            outputs.append(process.communicate(timeout=120))
        except subprocess.TimeoutExpired:  # one waits for another that has failed; what they said tells why
            for other in running:
                other.kill()
            outputs.append(process.communicate())
    return [Result(process.returncode, *output) for process, output in zip(running, outputs, strict=True)]


@pytest.fixture(scope="module")
def pair(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    """A run of two that find each other by the variables of a step that `srun` starts; the other runs here are told
    by JAX's own."""
    run = tmp_path_factory.mktemp("pair") / "run"
    slurm = {
        **{"SLURM_JOB_ID": str(random.randrange(4096)), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"},
        **{"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "JAX_NUM_CPU_DEVICES": "1"},
    }
    arguments = ("tests.small", "--config", config_file, "--workdir", run)
    return run, ended([start(*arguments, **slurm, SLURM_PROCID=index, SLURM_LOCALID=index) for index in ("0", "1")])


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


@pytest.mark.slow  # test_scaling.py has another that one process began
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


# Stopping


@pytest.mark.parametrize("signaled", [slowly([0]), [1], slowly([0, 1])])
def test_processes_agree_on_where_to_stop(
    config_file: Path, tmp_path: Path, signaled: list[int], pair: tuple[Path, list[Result]]
) -> None:
    """A signal to any of them stops all after the same step; what goes on is the same run, bit for bit."""
    run = tmp_path / "run"
    # It takes a second until a signal is noticed.
    running = begun("--config", config_file, "--workdir", run, module="tests.failing", FAILS="0:0:slower")
    wait_for(lambda: (run / "metrics.jsonl").is_file() and lines(run))
    for index in signaled:
        running[index].send_signal(signal.SIGTERM)
    results = ended(running)
    assert [result.code for result in results] == [143, 143], results
    stopped = int(results[0].out.split("Stopped after step ")[1].split(";")[0])
    assert final(run)[0] == stopped
    assert [result.code for result in processes("--workdir", run, "--resume")] == [0, 0]
    assert_equal_runs(run, pair[0])


# Failing


FULL = "A device has too little memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.)"


@pytest.mark.parametrize(
    ("failing", "kind", "code", "sentence"),
    [
        slowly(0, "error", USER, "The photo cannot be read."),
        slowly(1, "error", USER, "The photo cannot be read."),
        slowly(0, "bug", INTERNAL, "KeyError: 'a bug'"),
        (1, "bug", INTERNAL, "KeyError: 'a bug'"),
        slowly(0, "memory", MEMORY, FULL),
        slowly(1, "memory", MEMORY, FULL),
    ],
)
def test_an_error_of_one_ends_all(
    config_file: Path, tmp_path: Path, failing: int, kind: str, code: int, sentence: str
) -> None:
    running = begun(
        *("--config", config_file, "--workdir", tmp_path / "run"), module="tests.failing", FAILS=f"{failing}:2:{kind}"
    )
    wait_for(lambda: any(process.poll() is not None for process in running))
    began = time.monotonic()
    results = ended(running)
    assert time.monotonic() - began < 10
    assert [result.code for result in results] == [code, code], results
    other = results[1 - failing]
    assert f"error: {sentence}" in other.err
    assert f"(process {failing} on " in other.err
    assert "Traceback" not in other.err
    assert ("Traceback" in results[failing].err) == (kind == "bug")
    assert not (tmp_path / "run").exists()  # there is nothing to go on from


@pytest.mark.parametrize("killed", [slowly(0), 1])
def test_the_death_of_one_ends_the_other(config_file: Path, tmp_path: Path, killed: int) -> None:
    arguments = ("--config", config_file, "--workdir", tmp_path / "run", "--checkpoint-every", 1)
    running = begun(*arguments, module="tests.failing", FAILS=f"{killed}:3:killed")
    wait_for(lambda: running[killed].poll() is not None)
    began = time.monotonic()
    results = ended(running)
    assert time.monotonic() - began < 60
    assert results[killed].code == -signal.SIGKILL
    # JAX itself ends a process that waits for the other at a barrier, or does not hear of process 0 any more.
    assert results[1 - killed].code in (LOST, -signal.SIGABRT), results
    assert [result.code for result in processes("--workdir", tmp_path / "run", "--resume")] == [0, 0]


# Being alike


def test_processes_with_other_settings_are_refused(config_file: Path, tmp_path: Path) -> None:
    other = ("--optimizer.learning-rate", 0.5, "--seed", 3)
    for result in ended(begun("--config", config_file, "--workdir", tmp_path / "run", more=((), other))):
        message = user_error(result)
        assert "The processes of this run are not alike (optimizer.learning_rate: 0.05 in process 0 on " in message
        assert "; seed: 0 in process 0 on " in message
    assert not (tmp_path / "run").exists()


@pytest.fixture
def hosts(tmp_path: Path) -> list[Path]:
    """Folders in which the same relative path is another place for each process."""
    folders = [tmp_path / "host0", tmp_path / "host1"]
    for folder in folders:
        folder.mkdir()
    return folders


def test_processes_with_other_photos_are_refused(photos: Path, hosts: list[Path], tmp_path: Path) -> None:
    for host in hosts:
        shutil.copytree(photos, host / "photos")
    (hosts[1] / "photos" / "train" / "red" / "00.jpg").unlink()
    config = write_config(tmp_path / "configs" / "relative.py", Path("photos"))
    for result in ended(begun("--config", config, "--workdir", tmp_path / "run", folders=hosts)):
        message = user_error(result)
        assert "examples of train: '24 (" in message
        assert "'23 (" in message
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_is_not_shared_is_refused(config_file: Path, hosts: list[Path]) -> None:
    soon = {"JAXFT_JOIN_SECONDS": "20"}
    for result in ended(begun("--config", config_file, "--workdir", "run", folders=hosts, **soon)):
        assert "is another one in process 1; all processes of a run need one folder" in user_error(result)
    assert not any((host / "run").exists() for host in hosts)


def test_a_coordinator_that_nobody_reaches(config_file: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    result = execute(
        *("tests.small", "--config", config_file, "--workdir", tmp_path / "run"),
        **{"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
        JAXFT_JOIN_SECONDS="3",
    )
    assert "The other processes of this run were not found" in user_error(result)


# Finished runs


def test_a_trained_run_is_evaluated_and_predicted_by_two(small_run: Path, photos: Path, tmp_path: Path) -> None:
    alone = call(evaluate_main, "--run", small_run, "--json")
    results = processes("--run", small_run, "--json", COMMAND="evaluate")
    assert [result.code for result in results] == [0, 0], results
    assert results[1].out == ""
    metrics = json.loads(results[0].out)["metrics"]
    assert metrics == pytest.approx(json.loads(alone.out)["metrics"], rel=1e-4)
    output = tmp_path / "predicted"
    results = processes(photos / "test", "--run", small_run, "--output", output, COMMAND="predict")
    assert [result.code for result in results] == [0, 0], results
    assert len(json.loads((output / "predictions.json").read_text())) == 10
    assert "red" in results[0].out
    assert results[1].out == ""


@pytest.mark.slow
def test_a_trained_run_is_exported_by_two(resnet_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    results = processes("--run", resnet_run, "--output", file, module="jaxft.export")
    assert [result.code for result in results] == [0, 0], results
    assert file.is_file()


@pytest.mark.parametrize("hanging", [slowly(0), 1])
def test_a_process_that_hangs_ends_the_run_with_its_stacks(config_file: Path, tmp_path: Path, hanging: int) -> None:
    run = tmp_path / "run"
    arguments = ("--config", config_file, "--workdir", run, "--hardware.hang-after", 20)  # longer than it compiles
    results = processes(*arguments, module="tests.failing", FAILS=f"{hanging}:3:hang")
    assert [result.code for result in results] == [LOST, LOST], results
    assert any("has hung for" in result.err and "its stacks are in" in result.err for result in results)
    stacks = [(run / f"hang-{socket.gethostname()}-{index}.txt").read_text() for index in (0, 1)]
    assert "in trouble" in stacks[hanging]
    assert "in trouble" not in stacks[1 - hanging]
