"""However many devices and processes, and however the state is cut: the same run."""

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.small import Result, execute, final, lines, start, write_config
from tests.training.test_kills import newest
from tests.training.test_processes import begun, ended, processes
from tests.training.test_resume import wait_for

pytest_plugins = ("tests.runs",)

PHASES = (
    "Phase(epochs=2, rules=(Rule(pattern='fc'), Rule(pattern='*', frozen=True))), "
    "Phase(epochs=5, lr_scale=0.1, rules=(Rule(pattern='fc'), Rule(pattern='bn1', frozen=True), "
    "Rule(pattern='*', lr_scale=0.1))),"
)
SLOW = pytest.mark.slow
EVERY_STEP = ("--checkpoint-every", 1, "--log-every", 1)  # a line is a mean since the one before, or since a start
AVERAGED = ("--ema.decay", 0.9)


@pytest.fixture(scope="module")
def config(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 steps: the head, then all but a frozen BatchNorm at two rates; BatchNorm over the whole batch, dropout."""
    return write_config(tmp_path_factory.mktemp("scaling") / "configs" / "scaling.py", photos, phases=PHASES)


def trained(config: Path, run: Path, devices: int, fsdp: int, count: int = 1, *arguments: object) -> list[Result]:
    """A run on so many devices in `count` processes; every array is cut that can be."""
    every = ("--config", config, "--workdir", run, *AVERAGED, "--hardware.fsdp", fsdp, *arguments)
    changes = {"SMALLEST": "1", "JAX_NUM_CPU_DEVICES": str(devices // count)}
    results = [execute("tests.small", *every, **changes)] if count == 1 else processes(*every, count=count, **changes)
    assert [result.code for result in results] == [0] * count, results
    return results


@pytest.fixture(scope="module")
def alone(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one device."""
    run = tmp_path_factory.mktemp("alone") / "run"
    trained(config, run, 1, 1)
    return run


def assert_close_runs(run: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Arrays differ by no more relative to the largest number in each, and so do the metrics."""
    (step, ours), (other_step, others) = final(run), final(other)
    assert (step, ours.keys()) == (other_step, others.keys())
    for path, array in ours.items():
        scale = max(float(np.abs(others[path]).max(initial=0)), 0.1)  # a bias before BatchNorm has no gradient
        assert float(np.abs(array - others[path]).max(initial=0)) <= tolerance * scale, path
    for line, same in zip(lines(run), lines(other), strict=True):
        assert (line["step"], line["split"]) == (same["step"], same["split"])
        assert line["loss"] == pytest.approx(same["loss"], rel=10 * tolerance)


@pytest.mark.parametrize(
    ("devices", "fsdp", "count"),
    [
        (4, 2, 2),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(2, 1, 1), (4, 1, 1), (8, 1, 1), (4, 4, 1), (8, 2, 1), (8, 0, 1), (2, 1, 2), (4, 4, 2)]
        ),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(4, 1, 4), (4, 2, 4), (8, 4, 4)]),
    ],
)
def test_any_number_of_devices_and_processes(
    alone: Path, config: Path, tmp_path: Path, devices: int, fsdp: int, count: int
) -> None:
    run = tmp_path / "run"
    trained(config, run, devices, fsdp, count)
    assert_close_runs(run, alone)


@pytest.mark.parametrize(
    ("devices", "count", "fsdp"), [(6, 2, 1), pytest.param(3, 1, 1, marks=SLOW), pytest.param(12, 3, 2, marks=SLOW)]
)
def test_a_run_goes_on_where_the_devices_left_do_not_divide_its_batch(
    alone: Path, config: Path, tmp_path: Path, devices: int, count: int, fsdp: int
) -> None:
    """Begun on four devices in one process, broken off in the second phase; its batch is of 8."""
    run = tmp_path / "run"
    begin = ("--config", config, "--workdir", run, *AVERAGED, "--data.batch-size", 2, "--data.batch-per-device")
    broken = execute("tests.failing", *begin, FAILS="0:11:error", SMALLEST="1", JAX_NUM_CPU_DEVICES="4")
    assert broken.code == 2, broken
    again = (*begin, "--resume", "--hardware.fsdp", fsdp)
    changes = {"SMALLEST": "1", "JAX_NUM_CPU_DEVICES": str(devices // count)}
    results = [execute("tests.small", *again, **changes)] if count == 1 else processes(*again, count=count, **changes)
    assert [result.code for result in results] == [0] * count, results
    assert f"A batch of 8 is not cut for {devices} devices" in results[0].out
    assert_close_runs(run, alone)


def killed(running: Sequence, victims: Sequence[int], number: signal.Signals, moment: float) -> list[Result]:
    """How processes end of which some get a signal at a moment."""
    time.sleep(moment)
    for index in victims:
        running[index].send_signal(number)
    return ended(running)


def disturbed(config: Path, run: Path, kills: int, rng: random.Random, counts: Sequence[int]) -> None:
    """Two processes that are killed again and again, on one device each or on two, then finished; beside a reader now
    and then."""
    arguments = ("--config", config, "--workdir", run, *EVERY_STEP, *AVERAGED, "--resume")
    for _ in range(kills):
        known, devices = newest(run), str(rng.choice(counts))
        slow = {"module": "tests.failing", "FAILS": "0:0:slow", "JAX_NUM_CPU_DEVICES": devices}
        running = begun(*arguments, **slow)  # type: ignore[arg-type]
        wait_for(lambda known=known, running=running: newest(run) > known or running[0].poll() is not None)
        reader = start("tests.small", "--run", run, COMMAND="evaluate") if rng.random() < 0.3 else None
        victims = rng.choice([[0], [1], [0, 1]])
        number = rng.choice([signal.SIGKILL, signal.SIGTERM])
        results = killed(running, victims, number, rng.uniform(0, 0.5))
        if reader is not None:
            with reader:
                out, err = reader.communicate(timeout=300)
            assert reader.returncode == 0 or "checkpoint" in err, (out, err)
            assert "Traceback" not in err, err
        codes = [result.code for result in results]
        assert 2 not in codes, results
        assert 1 not in codes, results
        if number == signal.SIGTERM:
            assert codes[0] == codes[1], results  # all stop alike, or were done before they agreed
    results = processes(*arguments, JAX_NUM_CPU_DEVICES=str(counts[0]))
    assert [result.code for result in results] == [0, 0], results


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kills", "counts"), [(25, [1]), (25, [1, 2])])
def test_two_processes_that_are_killed_again_and_again(
    config: Path, tmp_path: Path, kills: int, counts: list[int]
) -> None:
    """Bit for bit the undisturbed run where the devices stay, and close to it where they change."""
    rng = random.Random()
    disturbed(config, tmp_path / "run", kills, rng, counts)
    calm = tmp_path / "calm"
    trained(config, calm, 2 * counts[0], 1, 2, *EVERY_STEP)
    assert_close_runs(tmp_path / "run", calm, 0 if len(counts) == 1 else 1e-5)
    steps = [line["step"] for line in lines(tmp_path / "run") if line["split"] == "train"]
    assert steps == sorted(set(steps))
