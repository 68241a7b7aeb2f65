"""Metrics of a run's model on a split: `python -m jaxft.evaluate --run DIR`."""

import json
import math
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jaxft.memory import keep_memory

if __name__ == "__main__":
    keep_memory()  # before what would be imported twice

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command, start
from jaxft.config import Config, Data, replace
from jaxft.data.download import check_root
from jaxft.errors import UserError
from jaxft.hardware import Hardware
from jaxft.inference import NOTHING_ASKED, Asked, through_views
from jaxft.predict import check_folder, write
from jaxft.reporting.console import make_console
from jaxft.run import RunDirectory

if TYPE_CHECKING:
    from jaxft.data.dataset import Dataset
    from jaxft.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Options:
    """Evaluates the model of a run, which may be under way."""

    run: Path
    """The run directory."""
    split: str | None = None
    """Another split than the one that the run evaluated on."""
    root: str | None = None
    """Another data folder than the run's."""
    checkpoint: Literal["best", "last"] | int | None = None
    """Which model of the run; by default the best where an evaluation has chosen one, and else the last. A number is
    the step of one that `keep_checkpoints` has kept."""
    output: Path | None = None
    """A folder for the predictions that were scored: predictions.json (of detectors COCO's results, with the ids of the
    annotation file) and pictures."""
    report: Path | None = None
    """A folder for the figures as tables, each as CSV and JSON: by class, the confusion matrix, every example."""
    json: bool = False
    """Print one JSON object on standard output, and all else on standard error. Figures by class are its `classes`, by
    target its `targets`."""
    asked: Annotated[Asked, tyro.conf.arg(name="")] = NOTHING_ASKED
    hang_after: float = Hardware().hang_after
    """As of `hardware.hang_after`, from the first photo on."""
    distributed: bool = False
    """This is one of several processes that share the work; see `jaxft train --help`."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog=program("evaluate"))
    directory = RunDirectory.at(options.run)
    config = configured(directory, options.root)
    options.asked.viewing()
    if options.output is not None:
        check_folder(options.output)
    if options.report is not None:
        check_folder(options.report, "--report")
    if options.hang_after <= 0:
        raise UserError(f"--hang-after is {options.hang_after:g}; it is more than 0 seconds.")
    start(distributed=options.distributed)
    import jax

    from jaxft.reporting.details import Details, to_rows
    from jaxft.reporting.figures import on_terminal, write_tables
    from jaxft.reporting.screen import Screen
    from jaxft.training.evaluation import evaluate, run_predictor
    from jaxft.training.finished import open_run
    from jaxft.training.watchdog import watched

    first = jax.process_index() == 0
    with Screen(make_console(quiet=not first, stderr=options.json)) as screen, doing("opening the run"):
        run = open_run(options.run, options.checkpoint)
        task = config.task.task(config.dtype)
        dataset = opened(directory, config, task, options.split)
        viewing = options.asked.of_run(directory, run.model)
        predictor, arrays = run_predictor(run, task)
        predicting = through_views(predictor, task, dataset, viewing)
        keep = None if options.output is None or not first else partial(write, task, dataset, folder=options.output)
        watching = watched(options.hang_after, directory.path, jax.process_index())
        with closing(predictor), watching, doing("evaluating") as counted:
            evaluated = evaluate(predicting, task, arrays, dataset, counted=counted, write=keep, undefined=True)
        metrics, details = evaluated.metrics, evaluated.details() if first else Details()
        said = f"{run.checkpoint} checkpoint (step {run.step}), {len(dataset)} examples"
        defined = {name: value for name, value in metrics.items() if not math.isnan(value)}
        if not options.json:
            screen.say(f"{said}: " + "  ".join(f"{name} {value:.4f}" for name, value in defined.items()))
        if task.primary_metric.name not in defined:
            screen.say(f"{task.primary_metric.name} is not defined: the examples have nothing that it could count.")
        if not options.json:
            for table in details.tables[:1]:
                screen.console.print(on_terminal(table))
        if options.report is not None and first:
            with doing(f"writing {options.report}"):
                write_tables(details, options.report)
    if options.json and first:
        content = {
            "run": str(directory.path),
            "checkpoint": run.checkpoint,
            "step": run.step,
            "split": options.split or split_name(config.data),
            "examples": len(dataset),
            "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
            **{table.name: to_rows(table) for table in details.tables[:1]},
        }
        print(json.dumps(content))


def configured(directory: RunDirectory, root: str | None) -> Config:
    """The configuration of a run to be evaluated, perhaps with another data folder.

    Raises:
        UserError: the run cannot be opened, or the folder is not there.
    """
    config = directory.check()
    if "datasets" in directory.own():
        raise UserError(
            f"{directory.path} was trained on datasets of your own, which its configuration does not describe; "
            "evaluate it from Python: jaxft.evaluate(jaxft.load_run(path), dataset)."
        )
    if root is not None:
        config = replace(config, {"data.root": root})
    check_root(config.data, "--root")
    return config


def opened(directory: RunDirectory, config: Config, task: "Task", split: str | None) -> "Dataset":
    """A checked split to evaluate a run's model on; by default what the run evaluates on.

    Raises:
        UserError: there is none, it cannot be used, or it is of other classes.
    """
    from jaxft.processes import check_alike, checks_shared, fingerprint
    from jaxft.training.evaluation import validation_dataset

    classes = directory.classes()
    if split is None:
        validation = validation_dataset(task, config, classes)
        if validation is None:
            raise UserError(f"{directory.path} has no validation split; name a split with --split.")
        dataset = validation
    else:
        dataset = task.dataset(config.data, split, classes)
    if dataset.classes != classes:
        raise UserError(f"The data have the classes {dataset.classes}, the run was trained on {classes}.")
    check_alike({"examples": fingerprint(dataset.names())})
    with checks_shared():
        dataset.check()
    return dataset


def split_name(data: Data) -> str | None:
    """What a run evaluates on."""
    return f"{data.train} (held out)" if data.holds_out else data.validation


if __name__ == "__main__":
    run_command(main)
