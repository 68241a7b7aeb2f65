"""Metrics of a finished run on a split: `python -m jaxft.evaluate --run DIR`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from jaxft import config
from jaxft.console import make_console
from jaxft.data.splits import open_split, open_splits
from jaxft.distributed import device_mesh, replicated
from jaxft.errors import UserError, run_command
from jaxft.inference import inference
from jaxft.models.paths import values
from jaxft.process import prepare
from jaxft.run import open_run


@dataclass(frozen=True, kw_only=True)
class Options:
    """Evaluates a finished run."""

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
    prepare()
    run = open_run(options.run, options.checkpoint)
    settings = run.config
    if options.root is not None:
        settings = config.replace(settings, {"data.root": options.root})
    rows = open_split(settings, options.split, run.classes) if options.split else open_splits(settings)[1]
    if rows.classes != run.classes:
        raise UserError(f"The data have the classes {rows.classes}, the run was trained on {run.classes}.")
    mesh = device_mesh(settings.data.batch_size, 1)
    at_work = inference(settings, run.model, run.classes, mesh)
    metrics = at_work.evaluate(replicated(values(run.model), mesh), rows)
    text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    make_console().print(
        f"{options.checkpoint} checkpoint (step {run.step}), {len(rows)} examples: {text}", highlight=False
    )


if __name__ == "__main__":
    run_command(main)
