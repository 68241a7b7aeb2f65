"""Stopping and going on: k steps + resume = N steps bit for bit, however the run ended."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from jaxft import train
from jaxft.training.loop import Loop
from jaxft.training.stages import Stage
from jaxft.training.state import TrainState
from tests.small import (
    Result,
    assert_equal_runs,
    call,
    final,
    interrupted,
    lines,
    start,
    user_error,
    write_config,
)

pytest_plugins = ("tests.runs",)

LONG = "Phase(epochs=12, schedule=Schedule(decay='cosine', unit='step', warmup=2)),"


def resume(run: Path, *arguments: object) -> Result:
    result = call(train.main, "--workdir", run, "--resume", *arguments)
    assert result.code == 0, result
    return result


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_metrics(one: Path, other: Path) -> None:
    """Equal evaluations, and no step twice."""
    for run in (one, other):
        keys = [(line["step"], line["split"]) for line in lines(run)]
        assert len(set(keys)) == len(keys)
        assert [step for step, _ in keys] == sorted(step for step, _ in keys)
    tests = [[line for line in lines(run) if line["split"] == "validation"] for run in (one, other)]
    assert tests[0] == tests[1]


def wait_for(ready: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if ready():
                return
        except ValueError:
            pass  # half a line
        time.sleep(0.02)
    raise TimeoutError


@pytest.fixture(scope="session")
def phases_run(two_phases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of two phases. Not to be changed."""
    run = tmp_path_factory.mktemp("phases_run") / "run"
    assert call(train.main, "--config", two_phases, "--workdir", run).code == 0
    return run


@pytest.mark.parametrize(
    ("at", "arguments"),
    [(5, ()), (3, ("--checkpoint-every", 1)), (6, ("--checkpoint-every", 2))],
    ids=["at the epoch's end", "after every step", "in the middle of an epoch"],
)
def test_resume_equals_an_undisturbed_run(
    small_run: Path, config_file: Path, tmp_path: Path, at: int, arguments: tuple[object, ...]
) -> None:
    run = tmp_path / "run"
    interrupted(config_file, run, at, *arguments)
    step, _ = final(run)
    assert step == (3 if not arguments else at - 1 if arguments[1] == 1 else 4)
    resume(run)
    assert_equal_runs(run, small_run)
    assert_same_metrics(run, small_run)


@pytest.mark.parametrize("at", [2, 4, 8], ids=["in the first phase", "at the second phase's start", "in the second"])
def test_resume_across_phases(phases_run: Path, two_phases: Path, tmp_path: Path, at: int) -> None:
    run = tmp_path / "run"
    interrupted(two_phases, run, at, "--checkpoint-every", 1)
    resume(run)
    assert_equal_runs(run, phases_run)
    assert_same_metrics(run, phases_run)
    assert final(run)[0] == 9


def test_the_first_phase_trains_the_head_alone(two_phases: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupted(two_phases, run, 1, "--checkpoint-every", 1)
    interrupted_again = tmp_path / "again"
    interrupted(two_phases, interrupted_again, 4)  # the checkpoint of the first phase's end
    step, arrays = final(interrupted_again)
    assert step == 3
    assert arrays["bn1.num_batches_tracked"] == 0
    assert (arrays["bn1.mean"] == 0).all()
    assert (arrays["bn1.scale"] == 1).all()
    resume(run)  # killed before its first checkpoint: from the start
    assert final(run)[1]["bn1.num_batches_tracked"] == 6


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(
    small_run: Path, config_file: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run, real = tmp_path / "run", Loop.log

    def log(loop: Loop, stage: Stage, state: TrainState, step: int, *rest: Any) -> None:
        real(loop, stage, state, step, *rest)
        if step == 2:
            os.kill(os.getpid(), number)

    with mock.patch.object(Loop, "log", log):
        result = call(train.main, "--config", config_file, "--workdir", run)
    assert result.code == code, result
    assert f"python -m jaxft.train --workdir {run} --resume" in result.out
    stopped = int(result.out.split("Stopped after step ")[1].split(";")[0])
    assert stopped in (2, 3)  # the handler runs at once or at the next step
    assert final(run)[0] == stopped
    resume(run)
    assert_equal_runs(run, small_run)


def test_a_signal_at_the_end_of_a_phase_is_not_forgotten(phases_run: Path, two_phases: Path, tmp_path: Path) -> None:
    run, real = tmp_path / "run", Loop.evaluate

    def evaluate(loop: Loop, *arguments: Any) -> None:
        real(loop, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Loop, "evaluate", evaluate):
        result = call(train.main, "--config", two_phases, "--workdir", run)
    assert result.code == 143, result
    assert final(run)[0] == 3
    resume(run)
    assert_equal_runs(run, phases_run)


def test_a_signal_after_the_last_step_ends_a_whole_run(small_run: Path, config_file: Path, tmp_path: Path) -> None:
    run, real = tmp_path / "run", Loop.evaluate

    def evaluate(loop: Loop, stage: Stage, state: TrainState, step: int) -> None:
        real(loop, stage, state, step)
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Loop, "evaluate", evaluate):
        assert call(train.main, "--config", config_file, "--workdir", run).code == 0
    assert_equal_runs(run, small_run)


@pytest.mark.parametrize("step", [3, 6])
def test_an_evaluation_that_a_signal_left_out_is_made_up(
    small_run: Path, config_file: Path, tmp_path: Path, step: int
) -> None:
    run, real = tmp_path / "run", Loop.save

    def save(loop: Loop, stage: Stage, state: TrainState) -> None:
        real(loop, stage, state)
        if int(state.step) == step and not loop.stop:
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(Loop, "save", save):
        assert call(train.main, "--config", config_file, "--workdir", run).code == 143
    assert final(run)[0] == step
    assert step not in [line["step"] for line in lines(run) if line["split"] == "validation"]
    resume(run)
    assert_equal_runs(run, small_run)
    assert_same_metrics(run, small_run)
    assert final(run, "best")[0] == final(small_run, "best")[0]


def test_sigterm_to_a_real_process(photos: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "configs" / "long.py", photos, phases=LONG.replace("12", "200"))
    run = tmp_path / "run"
    with start("tests.small", "--config", config, "--workdir", run) as process:
        wait_for(lambda: (run / "metrics.jsonl").is_file() and lines(run))
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 143, (out, err)
    assert "--resume" in out
    assert "Traceback" not in err
    assert final(run)[0] >= lines(run)[-1]["step"]


def test_resume_of_parameters_that_are_cut_over_devices(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxft.training.layout.SMALLEST", 100)
    calm, run = tmp_path / "calm", tmp_path / "run"
    assert call(train.main, "--config", config_file, "--workdir", calm, "--hardware.fsdp", 2).code == 0
    interrupted(config_file, run, 4, "--hardware.fsdp", 2)
    resume(run)
    assert_equal_runs(run, calm)
    assert_same_metrics(run, calm)


# Half-written and existing directories


@pytest.fixture
def half(small_run: Path, config_file: Path, tmp_path: Path) -> Iterator[Path]:
    """A run that ended after three of six steps; in the end it must equal the undisturbed one."""
    run = tmp_path / "half"
    interrupted(config_file, run, 4)
    yield run
    resume(run)
    assert_equal_runs(run, small_run)
    assert_same_metrics(run, small_run)


def test_a_left_over_temporary_checkpoint_is_cleared_away(half: Path) -> None:
    last = half / "checkpoints" / "last"
    (whole,) = last.iterdir()
    shutil.copytree(whole, last / "5.orbax-checkpoint-tmp-1700000000")
    shutil.rmtree(last / "5.orbax-checkpoint-tmp-1700000000" / "model")


def test_a_line_of_metrics_cut_in_two_is_dropped(half: Path) -> None:
    text = (half / "metrics.jsonl").read_text()
    entry = json.loads(text.splitlines()[-1]) | {"step": 3, "split": "train"}
    (half / "metrics.jsonl").write_text(text + json.dumps(entry)[:25])


def test_lines_of_steps_that_come_again_are_dropped(half: Path) -> None:
    with (half / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "epoch": 1, "split": "train", "loss": 99.0}) + "\n")


def test_missing_metrics_do_not_stop_a_run(small_run: Path, config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupted(config_file, run, 4)
    (run / "metrics.jsonl").unlink()
    resume(run)
    assert_equal_runs(run, small_run)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "another version"])
def test_a_run_directory_without_a_whole_configuration(small_run: Path, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    file = run / "config.json"
    text = file.read_text()
    if damage == "missing":
        file.unlink()
    else:
        file.write_text({"empty": "", "truncated": text[:200], "another version": text.replace("seed", "sead")}[damage])
    before = snapshot(run)
    message = user_error(call(train.main, "--workdir", run, "--resume"))
    assert str(run) in message
    assert snapshot(run) == before


def test_an_existing_run_is_refused_and_untouched(small_run: Path, config_file: Path) -> None:
    before = snapshot(small_run)
    message = user_error(call(train.main, "--config", config_file, "--workdir", small_run))
    assert "is not overwritten" in message
    assert "--resume" in message
    assert snapshot(small_run) == before


def test_a_directory_of_something_else_is_refused_and_untouched(config_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "not overwritten" in user_error(call(train.main, "--config", config_file, "--workdir", tmp_path))
    assert snapshot(tmp_path) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--optimizer.learning-rate", 0.5), "optimizer.learning_rate: 0.05 there, 0.5 here"),
        (("--phases.0.epochs", 1), "phases.0.epochs: 2 there, 1 here"),
        (("--seed", 1, "--data.batch-size", 4), "data.batch_size: 8 there, 4 here"),
    ],
)
def test_resume_with_other_settings_is_refused(
    small_run: Path, config_file: Path, arguments: tuple[object, ...], part: str
) -> None:
    before = snapshot(small_run)
    for config in ((), ("--config", config_file)):
        message = user_error(call(train.main, *config, "--workdir", small_run, "--resume", *arguments))
        assert part in message
    assert snapshot(small_run) == before


def test_resume_of_a_finished_run_changes_no_result(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    before = lines(run)
    resume(run)
    assert lines(run) == before
    assert_equal_runs(run, small_run)


def test_resume_of_nothing_starts(small_run: Path, config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call(train.main, "--config", config_file, "--workdir", run, "--resume").code == 0
    assert_equal_runs(run, small_run)
