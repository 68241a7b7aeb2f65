"""Metrics of a run's model on a split: `python -m jaxft.evaluate --run DIR`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from jaxft.cli import run_command, start
from jaxft.config import replace
from jaxft.errors import UserError
from jaxft.reporting.console import make_console


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
    options = tyro.cli(Options)
    start()
    from jaxft.run import open_run
    from jaxft.training.evaluation import evaluate, run_predictor

    run = open_run(options.run, options.checkpoint)
    config = run.config if options.root is None else replace(run.config, {"data.root": options.root})
    task = config.task.task(config.precision)
    if options.split is None:
        dataset = task.datasets(config.data, config.seed)[1]
    else:
        dataset = task.dataset(config.data, options.split, run.classes)
    if dataset.classes != run.classes:
        raise UserError(f"The data have the classes {dataset.classes}, the run was trained on {run.classes}.")
    dataset.check()
    predictor, arrays = run_predictor(run, task)
    metrics, _ = evaluate(predictor, task, arrays, dataset)
    text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    make_console().print(
        f"{options.checkpoint} checkpoint (step {run.step}), {len(dataset)} examples: {text}", highlight=False
    )


if __name__ == "__main__":
    run_command(main)
