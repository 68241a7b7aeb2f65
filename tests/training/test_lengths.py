"""Phases by steps, when a run is evaluated, runs without evaluation, and runs that end early."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from jaxft import api, train
from jaxft.config import Config, Phase, load, replace
from jaxft.errors import UserError
from jaxft.training.finished import open_run
from jaxft.training.intervals import evaluation_due
from jaxft.training.loop import fit
from jaxft.training.setup import set_up
from jaxft.training.stages import lay_out
from tests.small import Result, assert_equal_runs, call, final, interrupted, lines, user_error, write_config

pytest_plugins = ("tests.runs",)

# `jaxft.predict` and others are functions, too.
evaluate, export, predict = (import_module(f"jaxft.{name}") for name in ("evaluate", "export", "predict"))
STEPS = ("--phases.0.epochs", 5, "--phases.0.steps", 7)  # of 3 an epoch; 5 epochs are the default
BY_STEPS = (
    "Phase(steps=4, rules=(Rule(pattern='fc'), Rule(pattern='*', frozen=True))), "
    "Phase(steps=3, rules=(Rule(pattern='*'),), schedule=Schedule(decay='cosine')),"
)


def run_to(run: Path, config: Path, *arguments: object) -> Result:
    result = call(train.main, "--config", config, "--workdir", run, *arguments)
    assert result.code == 0, result
    return result


def resume(run: Path, *arguments: object) -> Result:
    result = call(train.main, "--workdir", run, "--resume", *arguments)
    assert result.code == 0, result
    return result


def evaluated(run: Path) -> list[int]:
    return [line["step"] for line in lines(run) if line["split"] == "validation"]


# Phases by steps


def test_a_phase_by_steps_goes_on_from_any_step(config_file: Path, tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    run_to(calm, config_file, *STEPS)
    assert final(calm)[0] == 7
    assert [(line["step"], line["epoch"]) for line in lines(calm) if line["split"] == "validation"] == [
        (3, 1),
        (6, 2),
        (7, 3),
    ]
    run = tmp_path / "run"
    interrupted(config_file, run, 5, *STEPS, "--checkpoint-every", 1)
    assert "Going on from step 4 of 7 (epoch 1 of 3 is done)." in resume(run).out
    assert_equal_runs(run, calm)
    assert evaluated(run) == [3, 6, 7]
    assert final(run, "best")[0] == final(calm, "best")[0]


def test_a_phase_may_begin_in_the_middle_of_an_epoch(photos: Path, tmp_path: Path) -> None:
    config, calm = write_config(tmp_path / "configs" / "steps.py", photos, phases=BY_STEPS), tmp_path / "calm"
    run_to(calm, config)
    assert evaluated(calm) == [3, 6, 7]
    run = tmp_path / "run"
    interrupted(config, run, 5, "--checkpoint-every", 2)
    assert final(run)[0] == 4  # the last step of the first phase
    resume(run)
    assert_equal_runs(run, calm)
    longer = resume(calm, "--phases.1.steps", 4)
    assert "Finished" in longer.out
    assert final(calm)[0] == 8
    assert "phases.1.steps: 4 there, 2 here" in user_error(
        call(train.main, "--workdir", calm, "--resume", "--phases.1.steps", 2)
    )


def test_a_phase_has_one_length(config_file: Path, tmp_path: Path) -> None:
    message = user_error(call(train.main, "--config", config_file, "--dry-run", "--phases.0.steps", 7))
    assert "phases.0.epochs is 2 and phases.0.steps 7" in message
    (stage,) = lay_out(Config(phases=(Phase(steps=7),)), {"fc.kernel": (2, 2)}, 3)
    assert (stage.first, stage.last) == (0, 7)


# When a run is evaluated


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [3, 6, 9, 12, 14]),
        ({"evaluate_every": 2}, [6, 12, 14]),
        ({"evaluate_every": 2, "evaluate_from": 3}, [12, 14]),
        ({"evaluate_from": 3}, [9, 12, 14]),
        ({"evaluate_from": 9}, [14]),
        ({"evaluate_unit": "step", "evaluate_every": 5}, [5, 10, 14]),
        ({"evaluate_unit": "step", "evaluate_every": 4, "evaluate_from": 5}, [8, 12, 14]),
    ],
)
def test_evaluations_come_at_their_steps(changes: dict[str, object], steps: list[int]) -> None:
    config = replace(Config(), changes)
    assert [step for step in range(1, 15) if evaluation_due(config, step, 3, 14)] == steps


def test_an_evaluation_in_the_middle_of_an_epoch_is_made_up(small_run: Path, config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rare = ("--evaluate-unit", "step", "--evaluate-every", 4)
    interrupted(config_file, run, 5, *rare)
    assert final(run)[0] == 4
    text = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"validation"' not in line]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in text))
    resume(run)
    assert evaluated(run) == [4, 6]
    assert_equal_runs(run, small_run)


# No validation


def test_a_run_without_validation(small_run: Path, config_file: Path, photos: Path, tmp_path: Path) -> None:
    run, blind = tmp_path / "run", ("--data.validation", None, "--pictures")
    assert "24 images" in call(train.main, "--config", config_file, "--dry-run", *blind).out
    interrupted(config_file, run, 4, *blind)
    said = resume(run)
    assert "Finished. Checkpoints" in said.out
    assert_equal_runs(run, small_run)
    assert evaluated(run) == []
    assert sorted(path.name for path in (run / "pictures").iterdir()) == ["inputs.png", "learning_curves.png"]
    result = call(predict.main, photos / "test" / "red", "--run", run)
    assert result.code == 0, result
    result = call(export.main, "--run", run, "--output", tmp_path / "x.pth")
    assert "the last model (step 6)" in result.out
    assert "last checkpoint (step 6), 10 examples" in call(evaluate.main, "--run", run, "--split", "test").out
    assert "no validation split" in user_error(call(evaluate.main, "--run", run))
    message = user_error(call(export.main, "--run", run, "--output", tmp_path / "y.pth", "--checkpoint", "best"))
    assert "holds no best checkpoint. The last one, of step 6, is whole" in message
    assert "take it with --checkpoint last" in message
    assert open_run(run).checkpoint == "last"
    assert open_run(small_run).checkpoint == "best"


def test_what_only_evaluations_read_is_refused_without_them(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("--config", config_file, "--workdir", run, "--data.validation", None, "--best-metric", "loss")
    assert "best_metric is 'loss', but nothing is evaluated" in user_error(call(train.main, *arguments))
    assert not run.exists()


def test_datasets_of_ones_own_without_validation(config_file: Path, tmp_path: Path) -> None:
    config = load(config_file)
    train_split = set_up(config).train
    fitted = fit(config, tmp_path / "run", datasets=(train_split, None), stop_after=2)
    assert fitted.best is None
    fitted = fit(config, tmp_path / "run", datasets=(train_split, None), resume=True)
    assert fitted.complete
    assert fitted.step == 6
    with pytest.raises(UserError, match="no validation split"):
        api.evaluate(fitted)


# The best, and the end


def test_another_metric_chooses_the_best(config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_to(run, config_file, "--best-metric=-loss")
    losses = {line["step"]: line["loss"] for line in lines(run) if line["split"] == "validation"}
    assert final(run, "best")[0] == min(losses, key=losses.__getitem__)
    before = lines(run)
    assert f"best validation loss {min(losses.values()):.4f}" in resume(run).out
    assert lines(run) == before
    resume(run, "--best-metric", "accuracy", "--phases.0.epochs", 3)
    assert final(run, "best")[0] == 9  # the first that this metric has judged


@pytest.mark.parametrize("field", ["best-metric", "early-stopping.metric"])
def test_an_unknown_metric_is_refused_before_the_first_step(config_file: Path, tmp_path: Path, field: str) -> None:
    run = tmp_path / "run"
    arguments = (f"--{field}", "acuracy", "--early-stopping.patience", 3)
    message = user_error(call(train.main, "--config", config_file, "--workdir", run, *arguments))
    assert f"{field.replace('-', '_')} is 'acuracy', but an evaluation gives loss, accuracy" in message
    assert not run.exists()


def test_a_run_that_gets_no_better_ends_and_stays_ended(config_file: Path, tmp_path: Path) -> None:
    calm, run = tmp_path / "calm", tmp_path / "run"
    ending = ("--early-stopping.patience", 2, "--early-stopping.min-delta", 2, "--phases.0.epochs", 9)
    said = run_to(calm, config_file, *ending)
    assert "The run ends early: accuracy has not become better than" in said.out
    assert "Finished: best validation accuracy" in said.out
    assert evaluated(calm) == [3, 6, 9]
    assert final(calm)[0] == 9
    before = lines(calm)
    assert "The run ends early" in resume(calm).out
    assert lines(calm) == before
    # Killed before the last step, and between its checkpoint and its evaluation.
    interrupted(config_file, run, 9, *ending)
    resume(run)
    assert_equal_runs(run, calm)
    shutil.rmtree(run / "checkpoints" / "best")
    text = [line for line in (run / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] < 9]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in text))
    resume(run)
    assert evaluated(run) == [3, 6, 9]
    assert_equal_runs(run, calm)
    resume(run, "--early-stopping.patience", 5)
    assert final(run)[0] == 18


def test_a_patience_that_is_off_has_no_fields(config_file: Path, tmp_path: Path) -> None:
    for field, value, switch in (
        ("early-stopping.min-delta", 0.5, "early_stopping.patience is None"),
        ("ema.begin", 5, "ema.decay is None"),
    ):
        message = user_error(
            call(train.main, "--config", config_file, "--workdir", tmp_path / "run", f"--{field}", value)
        )
        assert switch in message


# The moving average


def test_an_average_with_statistics_goes_on(config_file: Path, tmp_path: Path) -> None:
    calm, run = tmp_path / "calm", tmp_path / "run"
    ema = ("--ema.decay", 0.7, "--ema.buffers", "--ema.begin", 2, "--ema.interval", 2, "--ema.warmup", 4)
    run_to(calm, config_file, *ema)
    interrupted(config_file, run, 5, *ema, "--checkpoint-every", 1)
    resume(run)
    assert_equal_runs(run, calm)
    arrays = final(run)[1]
    opened = open_run(run, "last")
    mean = np.asarray(opened.model.bn1.mean[...])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(mean, arrays["ema['bn1.mean']"])
    assert (mean != arrays["bn1.mean"]).any()
    np.testing.assert_array_equal(opened.model.fc.kernel[...], arrays["ema['fc.kernel']"])  # type: ignore[attr-defined]
    assert "ema.begin: 2 there, 1 here" in user_error(call(train.main, "--workdir", run, "--resume", "--ema.begin", 1))
