"""Metrics of a run's model on a split: `python -m jaxft.evaluate --run DIR`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command, start
from jaxft.config import replace
from jaxft.data.download import check_root
from jaxft.errors import UserError
from jaxft.reporting.console import make_console
from jaxft.run import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Options:
    """Evaluates the model of a run, which may be under way."""

    run: Path
    """The run directory."""
    split: str | None = None
    """Another split than the one that the run evaluated on."""
    root: str | None = None
    """Another data folder than the run's."""
    checkpoint: Literal["best", "last"] = "best"
    """Which model of the run."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog=program("evaluate"))
    directory = RunDirectory(options.run)
    config = directory.check()
    if "datasets" in directory.own():
        raise UserError(
            f"{options.run} was trained on datasets of your own, which its configuration does not describe; evaluate "
            "it from Python: jaxft.evaluate(jaxft.load_run(path), dataset)."
        )
    if options.root is not None:
        config = replace(config, {"data.root": options.root})
    check_root(config.data, "--root")
    start()
    from jaxft.reporting.screen import Screen
    from jaxft.training.evaluation import evaluate, run_predictor
    from jaxft.training.finished import open_run

    with Screen(make_console()) as screen, doing("opening the run"):
        run = open_run(options.run, options.checkpoint)
        task = config.task.task(config.dtype)
        if options.split is None:
            dataset = task.datasets(config.data, config.seed)[1]
        else:
            dataset = task.dataset(config.data, options.split, run.classes)
        if dataset.classes != run.classes:
            raise UserError(f"The data have the classes {dataset.classes}, the run was trained on {run.classes}.")
        dataset.check()
        predictor, arrays = run_predictor(run, task)
        with doing("evaluating") as counted:
            metrics, _ = evaluate(predictor, task, arrays, dataset, counted=counted)
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        screen.say(f"{options.checkpoint} checkpoint (step {run.step}), {len(dataset)} examples: {text}")


if __name__ == "__main__":
    run_command(main)
