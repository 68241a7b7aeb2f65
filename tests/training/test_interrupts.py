"""Ctrl-C and SIGTERM at any moment: one line, the code of the signal, nothing half made and nothing lost."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from jaxft import export, train
from jaxft.data.photo import Photo
from jaxft.tasks.classification.accuracy import Accuracy
from jaxft.training.evaluation import Predictor
from jaxft.training.loop import Loop
from jaxft.training.step import Compiled
from tests.small import ROOT, Result, assert_equal_runs, call, environment, final, interrupted, lines

pytest_plugins = ("tests.runs",)

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def sending(number: int, real: Callable[..., Any], times: int = 1) -> Callable[..., Any]:
    """A function that sends this process a signal, when it is called first, before it does what it did."""
    left = [number] * times

    def function(*arguments: Any) -> Any:
        while left:
            os.kill(os.getpid(), left.pop())
        end = time.monotonic() + 0.2
        while time.monotonic() < end:  # the handler runs in the main thread between two steps of it
            pass
        return real(*arguments)

    return function


@pytest.fixture
def half(config_file: Path, tmp_path: Path) -> Path:
    """A run of `config_file` that ended after its first epoch, step 3."""
    run = tmp_path / "half"
    interrupted(config_file, run, 4)
    return run


# Before the first step


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize(
    ("place", "activity"),
    [
        ("jaxft.data.photo.Photo.rgb", "checking the photos in "),
        ("jaxft.training.setup.load_weights", "loading no weights"),
        ("jaxft.training.setup.first_values", "drawing initial values"),
    ],
)
def test_what_comes_before_the_run_directory_leaves_nothing(
    config_file: Path, tmp_path: Path, place: str, activity: str, number: int, code: int
) -> None:
    run = tmp_path / "run"
    module, _, name = place.rpartition(".")
    real = Photo.rgb if name == "rgb" else getattr(sys.modules[module], name)
    with mock.patch(place, sending(number, real)):
        result = call(train.main, "--config", config_file, "--workdir", run)
    assert result.code == code
    assert result.err.startswith(f"Stopped while {activity}")
    assert result.err.endswith("; nothing is kept.\n")
    assert result.err.count("\n") == 1
    assert not run.exists()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_the_first_step_is_traced_leaves_nothing(
    config_file: Path, tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "run"
    with mock.patch.object(Compiled, "lowered", sending(number, Compiled.lowered)):
        result = call(train.main, "--config", config_file, "--workdir", run)
    assert (result.code, result.err) == (code, "")
    assert result.out.endswith("Stopped before the first step; nothing is kept.\n")
    assert not run.exists()


def test_a_signal_while_a_resumed_run_compiles_says_from_where_to_go_on(half: Path, small_run: Path) -> None:
    with mock.patch.object(Compiled, "lowered", sending(signal.SIGINT, Compiled.lowered)):
        result = call(train.main, "--workdir", half, "--resume")
    assert result.code == 130, result
    assert "Stopped after step 3; all is saved. Go on with:\n  python -m jaxft.train --workdir" in result.out
    assert call(train.main, "--workdir", half, "--resume").code == 0
    assert_equal_runs(half, small_run)


def test_a_resumed_run_that_ends_before_its_first_step_stays(half: Path) -> None:
    with mock.patch("jaxft.data.photo.Photo.rgb", sending(signal.SIGINT, Photo.rgb)):
        result = call(train.main, "--workdir", half, "--resume")
    assert result.code == 130
    assert result.err.endswith(f"; go on with python -m jaxft.train --workdir {half} --resume.\n")
    assert final(half)[0] == 3


# Later


@pytest.mark.parametrize(("place", "stopped"), [("lowered", 1), ("add", 3)])
def test_a_signal_during_an_evaluation_ends_it_and_it_is_made_up(
    config_file: Path, small_run: Path, tmp_path: Path, place: str, stopped: int
) -> None:
    """It is traced after the first step, to be compiled while the epoch goes on."""
    run = tmp_path / "run"

    def lowered(step: Compiled, *arguments: Any) -> Any:
        if not step._updates_state:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(step, *arguments)

    kind, real = (Compiled, Compiled.lowered) if place == "lowered" else (Accuracy, Accuracy.add)
    changed = lowered if place == "lowered" else sending(signal.SIGTERM, real)
    with mock.patch.object(kind, place, changed):
        result = call(train.main, "--config", config_file, "--workdir", run)
    assert (result.code, result.err) == (143, "")
    assert f"Stopped after step {stopped}; all is saved." in result.out
    assert [line["step"] for line in lines(run) if line["split"] == "validation"] == []
    assert call(train.main, "--workdir", run, "--resume").code == 0
    assert_equal_runs(run, small_run)
    assert [line["step"] for line in lines(run) if line["split"] == "validation"] == [3, 6]


@pytest.mark.parametrize("step", [2, 5])
def test_the_second_signal_ends_a_run_at_once(config_file: Path, tmp_path: Path, step: int) -> None:
    run, real = tmp_path / "run", Loop.log

    def log(loop: Loop, *arguments: Any) -> None:
        (sending(signal.SIGINT, real, times=2) if arguments[2] >= step else real)(loop, *arguments)

    with mock.patch.object(Loop, "log", log):
        result = call(train.main, "--config", config_file, "--workdir", run)
    assert result.code == 130
    if step == 2:  # before there is a checkpoint
        assert result.err == "Stopped while training; nothing is kept.\n"
        assert not run.exists()
    else:
        assert result.err == f"Stopped while training; go on with python -m jaxft.train --workdir {run} --resume.\n"
        assert final(run)[0] == 3


def test_an_interrupt_during_garbage_collection_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """Python prints and forgets what is raised there, and JAX has a callback there."""
    sent: list[int] = []

    def collected(phase: str, _: object) -> None:
        if phase == "stop" and not sent:
            sent.append(1)
            sending(signal.SIGTERM, lambda: None)()

    def main() -> None:
        gc.collect()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.01)

    gc.callbacks.append(collected)
    try:
        result = call(main)
    finally:
        gc.callbacks.remove(collected)
    assert sent
    assert result == Result(143, "", "Stopped; nothing is kept.\n")


def test_an_export_that_is_stopped_leaves_no_file(small_run: Path, tmp_path: Path) -> None:
    with mock.patch("jaxft.export.os.replace", sending(signal.SIGINT, os.replace)):
        result = call(export.main, "--run", small_run, "--format", "stablehlo", "--output", tmp_path / "x.stablehlo")
    assert result.code == 130
    assert list(tmp_path.iterdir()) == []


# An evaluation that is compiled while the first epoch runs


def compiling_the_evaluation(work: Callable[[], Any]) -> Any:
    """Within, `work` comes before the compilation of a prediction, in the thread of it."""
    real = Compiled.lowered

    def lowered(step: Compiled, *arguments: Any) -> Any:
        found = real(step, *arguments)
        return found if step._updates_state else mock.Mock(compile=lambda **options: work() or found.compile(**options))

    return mock.patch.object(Compiled, "lowered", lowered)


def test_an_evaluation_is_compiled_beside_the_training_and_says_the_same(
    config_file: Path, small_run: Path, tmp_path: Path
) -> None:
    threads: list[threading.Thread] = []
    with compiling_the_evaluation(lambda: threads.append(threading.current_thread())):
        result = call(train.main, "--config", config_file, "--workdir", tmp_path / "beside")
    assert result.code == 0, result
    assert len(threads) == 1
    with mock.patch.object(Predictor, "prepare"):
        assert call(train.main, "--config", config_file, "--workdir", tmp_path / "alone").code == 0
    found, wanted = (
        [line for line in lines(tmp_path / name) if line["split"] == "validation"] for name in ("beside", "alone")
    )
    assert found == wanted
    assert_equal_runs(tmp_path / "beside", small_run)


def test_an_error_of_its_compilation_is_raised_by_the_evaluation(config_file: Path, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("no room for the prediction")

    with compiling_the_evaluation(fail), pytest.raises(RuntimeError, match="no room for the prediction"):
        call(train.main, "--config", config_file, "--workdir", tmp_path / "run")
    assert final(tmp_path / "run")[0] == 3


FOR_EVER = """
import sys, time
import tests.small
from jaxft import train
from jaxft.cli import run_command
from tests.training.test_interrupts import compiling_the_evaluation

sys.argv[0] = "jaxft train"
with compiling_the_evaluation(lambda: time.sleep(600)):
    run_command(train.main)
"""


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_does_not_wait_for_the_evaluation(config_file: Path, tmp_path: Path, number: int, code: int) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", FOR_EVER, "--config", str(config_file), "--workdir", str(run)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 120
        while not (run / "checkpoints" / "last" / "3").is_dir() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, ""), out
    assert "Stopped after step 3; all is saved." in out


# Real processes, whose compilation goes on in a thread that nobody waits for


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_real_compilation(tmp_path: Path, number: int, code: int) -> None:
    run = tmp_path / "run"
    model = ("--model.name", "resnet18", "--pretrained.source", "None", "--pretrained.skip", "--phases.0.epochs", "1")
    rule = ("--phases.0.rules.0.pattern", "fc")
    command = [sys.executable, "-m", "jaxft", "train", "--config", "jaxft:digits", "--workdir", str(run), *model, *rule]
    # A whole compilation of the step takes some ten seconds.
    changes = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(**changes), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(3)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (code, ""), out
    assert out.endswith("Stopped before the first step; nothing is kept.\n")
    assert not run.exists()
    shutil.rmtree(tmp_path / "cache")
