"""What may change when a run goes on and what must not; and other processes that look at a run under way."""

import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax.numpy as jnp
import pytest
from jax import Array

from jaxft import export, train
from jaxft.config import Config, Data, from_json, load
from jaxft.errors import NOT_FINITE, UserError
from jaxft.evaluate import main as evaluate_main
from jaxft.tasks.classification.task import ClassificationTask
from jaxft.training.loop import Loop, fit
from jaxft.training.resuming import check_config
from jaxft.training.stages import Stage
from jaxft.training.state import TrainState
from tests.small import (
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

pytest_plugins = ("tests.runs",)


def test_how_photos_are_checked_may_change() -> None:
    run: Any = SimpleNamespace(config=Config, path="run")
    check_config(run, Config(data=Data(check="none", workers=3)), None)
    with pytest.raises(UserError, match=r"data\.shuffle: True there, False here"):
        check_config(run, Config(data=Data(check="none", shuffle=False)), None)


@pytest.fixture
def begun(config_file: Path, tmp_path: Path) -> Path:
    """A run that ended after three of six steps."""
    interrupted(config_file, tmp_path / "run", 4)
    return tmp_path / "run"


def resume(run: Path, *arguments: object) -> Result:
    result = call(train.main, "--workdir", run, "--resume", *arguments)
    assert result.code == 0, result
    return result


# Settings


def test_it_says_from_which_step_it_goes_on(begun: Path) -> None:
    assert "Going on from step 3 of 6 (epoch 1 of 2 is done)" in resume(begun).out


def test_what_has_no_part_in_the_result_may_change(begun: Path, small_run: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "moved")
    changes = ("--data.root", tmp_path / "moved", "--log-every", 1, "--checkpoint-every", 1, "--data.workers", 1)
    resume(begun, *changes)
    assert_equal_runs(begun, small_run)
    saved = from_json((begun / "config.json").read_text(), begun)
    assert (saved.data.root, saved.log_every) == (str(tmp_path / "moved"), 1)


def test_a_finished_run_may_have_more_epochs(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    assert "Going on from step 6 of 9" in resume(run, "--phases.0.epochs", 3).out
    assert final(run)[0] == 9
    assert [line["step"] for line in lines(run) if line["split"] == "validation"] == [3, 6, 9]


def test_a_phase_that_is_over_has_the_length_that_it_had(two_phases: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupted(two_phases, run, 5, "--checkpoint-every", 1)
    message = user_error(call(train.main, "--workdir", run, "--resume", "--phases.0.epochs", 2))
    assert "phases.0.epochs: 1 there, 2 here" in message
    resume(run, "--phases.1.epochs", 3)
    assert final(run)[0] == 12


def test_a_run_that_was_not_finite_goes_on_with_a_lower_rate(config_file: Path, begun: Path, tmp_path: Path) -> None:
    run = tmp_path / "not_finite"

    def loss(_: Any, model: Any, batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        value = jnp.nan * model(batch["image"].astype(jnp.float32)).sum()
        return value, {"loss": value}

    lower = pytest.raises(UserError, match=r"--resume and a lower --optimizer\.learning-rate")
    with mock.patch.object(ClassificationTask, "loss", loss), lower:
        fit(load(config_file), run)
    for rate in (0.1, 0.01):
        result = call(train.main, "--workdir", run, "--resume", "--optimizer.learning-rate", rate)
        if rate == 0.1:
            assert "optimizer.learning_rate: 0.05 there, 0.1 here" in user_error(result)
        else:
            assert result.code == 0, result
    assert final(run)[0] == 6
    message = user_error(call(train.main, "--workdir", begun, "--resume", "--optimizer.learning-rate", 0.01))
    assert "optimizer.learning_rate: 0.05 there, 0.01 here" in message  # of a run whose numbers were finite


def test_resume_needs_the_run_directory_alone(config_file: Path, tmp_path: Path) -> None:
    """Not the checkpoint that it started from."""
    weights, run = tmp_path / "weights.pth", tmp_path / "run"
    interrupted(config_file, tmp_path / "other", 4)
    arguments = ("--run", tmp_path / "other", "--output", weights, "--checkpoint", "last")
    assert call(export.main, *arguments).code == 0
    interrupted(config_file, run, 4, "--pretrained.source", weights)
    weights.unlink()
    resume(run)
    assert final(run)[0] == 6


def test_numbers_that_are_not_finite_right_after_a_checkpoint_are_remembered(config_file: Path, tmp_path: Path) -> None:
    """The step of the last checkpoint and the last good one are the same, so that nothing is saved anew."""
    run, real = tmp_path / "run", Loop.log

    def log(loop: Loop, stage: Stage, state: TrainState, step: int, *rest: Any) -> None:
        if step > 3:
            state = dataclasses.replace(state, step=state.step - (step - 3), all_finite=jnp.zeros((), bool))
        real(loop, stage, state, step, *rest)

    with mock.patch.object(Loop, "log", log):
        message = user_error(
            call(train.main, "--config", config_file, "--workdir", run, "--log-every", 1), code=NOT_FINITE
        )
    assert "The last good state, of step 3" in message
    assert final(run)[0] == 3
    resume(run, "--optimizer.learning-rate", 0.01)
    assert final(run)[0] == 6


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(config_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scalar"):
        fit(load(config_file), tmp_path / "run", loss=lambda model, batch: batch["label"])
    assert not (tmp_path / "run").exists()


# Data


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("more", "1 of train new (red/99.jpg)"),
        ("fewer", "1 of train gone (green/03.png)"),
        ("moved to another class", "1 of train new (blue/moved.jpg)"),
        ("validation", "1 of validation gone"),
    ],
)
def test_a_change_of_the_data_is_named(begun: Path, photos: Path, tmp_path: Path, change: str, part: str) -> None:
    root = tmp_path / "changed"
    shutil.copytree(photos, root)
    train_photos = root / "train"
    if change == "more":
        shutil.copy(train_photos / "red" / "00.jpg", train_photos / "red" / "99.jpg")
    elif change == "fewer":
        (train_photos / "green" / "03.png").unlink()
    elif change == "validation":
        (root / "test" / "blue" / "00.jpg").unlink()
    else:
        (train_photos / "red" / "00.jpg").rename(train_photos / "blue" / "moved.jpg")
    before = lines(begun)
    message = user_error(call(train.main, "--workdir", begun, "--resume", "--data.root", root))
    assert part in message
    assert "have changed" in message
    assert lines(begun) == before
    resume(begun)


def test_one_photo_more_does_not_move_the_held_out_part(config_file: Path, photos: Path, tmp_path: Path) -> None:
    root, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, root)
    interrupted(config_file, run, 3, "--data.root", root, "--data.holdout", 0.3)
    shutil.copy(root / "train" / "red" / "00.jpg", root / "train" / "red" / "99.jpg")
    message = user_error(call(train.main, "--workdir", run, "--resume"))
    assert " new (red/99.jpg)" in message
    assert " gone (" not in message  # whatever else the draw has moved is called moved
    (root / "train" / "red" / "99.jpg").unlink()
    (root / "train" / "red" / "03.png").unlink()
    message = user_error(call(train.main, "--workdir", run, "--resume"))
    assert " gone (red/03.png)" in message
    assert " of train now in validation (" in message
    assert " new (" not in message


# Readers


def test_a_run_under_way_can_be_evaluated(photos: Path, tmp_path: Path) -> None:
    """Evaluating must not clear away the checkpoint that is being written, which once ended the training."""
    config = write_config(tmp_path / "configs" / "long.py", photos, phases="Phase(epochs=40),")
    run = tmp_path / "run"
    with start("tests.small", "--config", config, "--workdir", run, "--checkpoint-every", 1) as process:
        while not list(run.glob("checkpoints/best/[0-9]*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        seen = 0
        while process.poll() is None and seen < 4:
            for which in ("last", "best"):
                result = call(evaluate_main, "--run", run, "--checkpoint", which)
                assert result.code == 0, result
                assert f"{which} checkpoint (step " in result.out
            seen += 1
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, (out, err)
    assert final(run)[0] == 120
    assert seen > 0


def test_looking_at_a_run_changes_nothing_in_it(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    (run / "checkpoints" / "last" / "7.orbax-checkpoint-tmp-1").mkdir()  # what another process is writing
    before = {path.relative_to(run): path.stat().st_mtime_ns for path in run.rglob("*")}
    assert call(evaluate_main, "--run", run, "--checkpoint", "last").code == 0
    assert {path.relative_to(run): path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_best_checkpoint_holds_the_model_and_its_average_alone(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call(train.main, "--config", config_file, "--workdir", run, "--ema.decay", 0.9).code == 0
    (best,), (last,) = ((run / "checkpoints" / which).iterdir() for which in ("best", "last"))
    assert {path.name for path in best.iterdir() if path.is_dir()} == {"model", "ema", "metadata"}
    assert {path.name for path in last.iterdir() if path.is_dir()} == {"model", "ema", "optimizer", "metadata"}
    evaluated = call(evaluate_main, "--run", run, "--checkpoint", "last")
    (wanted,) = [line for line in lines(run) if line["split"] == "validation" and line["step"] == 6]
    assert f"loss {wanted['loss']:.4f}" in evaluated.out


def test_a_moving_average_is_resumed(config_file: Path, tmp_path: Path) -> None:
    calm, run = tmp_path / "calm", tmp_path / "run"
    assert call(train.main, "--config", config_file, "--workdir", calm, "--ema.decay", 0.9).code == 0
    interrupted(config_file, run, 5, "--ema.decay", 0.9, "--checkpoint-every", 1)
    resume(run)
    assert_equal_runs(run, calm)


# Compilation


def test_a_changed_number_compiles_nothing(config_file: Path, tmp_path: Path) -> None:
    """Of two runs that differ in rates, decay, momentum, schedule, average, epochs and seed the second finds all
    programs. A third, with another optimizer, does compile: programs are seen."""
    folder = tmp_path / "cache"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "JAXFT_ONEDNN": "0"}
    common = ("tests.small", "--config", config_file, "--ema.decay", 0.9, "--workdir")
    assert execute(*common, tmp_path / "one", **cache).code == 0
    programs = {path.name for path in folder.glob("*-cache")}
    assert any("step" in name for name in programs)
    numbers = ("--optimizer.learning-rate", 0.01, "--optimizer.weight-decay", 0.1, "--optimizer.momentum", 0.5)
    schedule = ("--phases.0.schedule.warmup", 3, "--phases.0.epochs", 3, "--seed", 5)
    schedule += ("--ema.begin", 2, "--ema.interval", 2, "--ema.warmup", 3)
    result = execute(*common, tmp_path / "two", *numbers, *schedule, **cache)
    assert result.code == 0, result
    assert lines(tmp_path / "one")[0]["loss"] != lines(tmp_path / "two")[0]["loss"]
    after = {path.name for path in folder.glob("*-cache")}
    assert not {name for name in after - programs if "step" in name or "draw" in name}
    result = execute(*common, tmp_path / "three", "--optimizer.name", "adam", "--optimizer.momentum", 0, **cache)
    assert result.code == 0, result
    other = {path.name for path in folder.glob("*-cache")} - after
    assert any("step" in name for name in other)
