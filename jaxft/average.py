"""The mean of a run's checkpoints: `python -m jaxft.average --run DIR --output model.pth`."""

import dataclasses
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxft.memory import keep_memory

if __name__ == "__main__":
    keep_memory()  # before what would be imported twice

import tyro
from rich.table import Table

from jaxft.activity import doing
from jaxft.cli import program, run_command, start
from jaxft.errors import UserError
from jaxft.evaluate import configured, opened
from jaxft.inference import host_arrays
from jaxft.reporting.console import make_console
from jaxft.reporting.details import whole
from jaxft.run import RunDirectory

if TYPE_CHECKING:
    from jaxft.config import Config
    from jaxft.data.dataset import Dataset
    from jaxft.tasks.task import Task
    from jaxft.training.finished import FinishedRun

SUFFIXES = (".pth", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Takes the mean of the checkpoints that a run has kept, estimates the statistics of BatchNorm anew, evaluates it
    beside the run's best and last model, and exports it under PyTorch's names."""

    run: Path
    """The run directory."""
    output: Path
    """The file to write, .pth or .safetensors; what exists is not overwritten."""
    steps: tuple[int, ...] = ()
    """The checkpoints' steps; all that `keep_checkpoints` has kept by default."""
    batch_norm: Literal["estimate", "mean", "last"] = "estimate"
    """The statistics of BatchNorm: estimated over the training split, as PyTorch's update_bn does it, where the last
    phase has tracked them; the mean of the checkpoints'; or those of the last one."""
    root: str | None = None
    """Another data folder than the run's."""
    json: bool = False
    """Print one JSON object on standard output, and all else on standard error."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog=program("average"))
    if options.output.exists():
        raise UserError(f"{options.output} exists already and is not overwritten; choose another --output.")
    if options.output.suffix not in SUFFIXES:
        raise UserError(f"{options.output.name} ends in none of {', '.join(SUFFIXES)}; choose another --output.")
    directory = RunDirectory.at(options.run)
    config = configured(directory, options.root)
    start()
    from jaxft.api import save
    from jaxft.reporting.screen import Screen
    from jaxft.training.finished import open_run

    console = make_console(stderr=options.json)
    with Screen(console) as screen, doing("averaging"):
        steps = chosen(directory, config, options.steps)
        averaged = mean_run(directory, config, steps, options.batch_norm)
        several = f"average of steps {', '.join(map(str, steps))}"
        runs = {several if len(steps) > 1 else f"the run's own average (step {steps[0]})": averaged}
        for which in ("last", "best"):
            if (directory.checkpoints / which).is_dir() and any((directory.checkpoints / which).iterdir()):
                found = open_run(options.run, which)
                runs[f"{which} (step {found.step})"] = found
        task = config.task.task(config.dtype)
        evaluates = config.data.holds_out or config.data.validation is not None
        figures = compared(runs, task, opened(directory, config, task, None)) if evaluates else {}
        save(averaged, options.output)
        screen.say(f"{options.output}: {next(iter(runs))}, of {directory.path}")
    if options.json:
        print(json.dumps({"steps": steps, "metrics": figures}))
    elif figures:
        console.print(table(figures))


def chosen(directory: RunDirectory, config: "Config", steps: tuple[int, ...]) -> list[int]:
    """The steps of the checkpoints to be averaged.

    Raises:
        UserError: one is not there, or there is only one, which is no average, unless the run itself has averaged.
    """
    from jaxft.training.checkpoint import Checkpoints

    with Checkpoints(directory.checkpoints, read_only=True) as checkpoints:
        kept, best = checkpoints.kept(), checkpoints.step("best")
    there = sorted({*kept, *([] if best is None else [best])})
    found = sorted(set(steps)) or kept
    if missing := [step for step in found if step not in there]:
        listed = ", ".join(map(str, there)) or "none"
        raise UserError(f"{directory.path} holds no checkpoint of step {missing[0]}; those that it holds: {listed}.")
    if len(found) < 2 and config.ema.kind != "swa":
        raise UserError(
            f"There is one checkpoint to average, of step {found[0]}, which would be the mean of itself; name several "
            "by --steps, or train with --keep-checkpoints 5 or more (or with --ema.kind swa, which averages itself)."
            if found
            else f"{directory.path} holds no checkpoint to average; train first."
        )
    return found


def mean_run(directory: RunDirectory, config: "Config", steps: list[int], batch_norm: str) -> "FinishedRun":
    """A run with the mean of its checkpoints as its model."""
    import jax.numpy as jnp
    from flax import nnx

    from jaxft.config import Distillation, replace
    from jaxft.models.paths import filled, values
    from jaxft.training.averaging import estimated_statistics, mean_arrays
    from jaxft.training.finished import open_run
    from jaxft.training.setup import set_up

    last = open_run(directory.path, steps[-1])
    arrays = mean_arrays(host_arrays(open_run(directory.path, step).model) for step in steps)
    statistics = values(last.model, nnx.BatchStat).keys()
    if batch_norm == "last":
        arrays |= {path: array for path, array in host_arrays(last.model).items() if path in statistics}
    if batch_norm == "estimate" and statistics:
        alone = replace(config, {"distillation": Distillation()})  # a teacher changes no statistics
        arrays |= estimated_statistics(set_up(alone), arrays)
    model = filled(last.model, {path: jnp.asarray(array) for path, array in arrays.items()})
    model.eval()
    return dataclasses.replace(last, model=model, checkpoint="average")


def compared(runs: "dict[str, FinishedRun]", task: "Task", dataset: "Dataset") -> dict[str, dict[str, float]]:
    """The metrics of each model on a dataset, by one program."""
    from jaxft.training.evaluation import evaluate, placed, run_predictor

    figures = {}
    predictor, _ = run_predictor(next(iter(runs.values())), task)
    with closing(predictor):
        for name, run in runs.items():
            with doing(f"evaluating {name}") as counted:
                figures[name] = evaluate(predictor, task, placed(run), dataset, counted=counted).metrics
    return figures


def table(figures: dict[str, dict[str, float]]) -> Table:
    """A row a model."""
    names = list(dict.fromkeys(name for metrics in figures.values() for name in whole(metrics)))
    shown = Table("model", *names)
    for model, metrics in figures.items():
        shown.add_row(model, *(f"{metrics[name]:.4f}" if name in metrics else "" for name in names))
    return shown


if __name__ == "__main__":
    run_command(main)
