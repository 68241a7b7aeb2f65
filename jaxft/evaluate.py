"""Metrics of a model on a split; `python -m jaxft.evaluate --run DIR` for a finished run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from jax import Array
from jax.sharding import Mesh

from jaxft import config
from jaxft.console import make_console
from jaxft.data import Source, eval_batches
from jaxft.data.splits import center_crop, open_split, open_splits
from jaxft.distributed import device_mesh, global_batch, replicated
from jaxft.errors import UserError, run_command
from jaxft.models.paths import values
from jaxft.process import prepare
from jaxft.run import open_run
from jaxft.setup import task
from jaxft.step import Compiled, eval_step


def evaluate(
    step: Compiled, arrays: Mapping[str, Array], source: Source, settings: config.Config, mesh: Mesh
) -> dict[str, float]:
    """Mean loss and accuracy (0..1) over every example of `source`, each counted once.

    Args:
        step: a compiled `jaxft.step.eval_step`.
        arrays: the model's parameters and statistics by dotted path.
    """
    batches = eval_batches(
        source,
        center_crop(settings),
        batch_size=settings.data.batch_size,
        workers=settings.data.workers,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    sums: Any = None
    with batches:
        for batch in batches:
            part = step(arrays, global_batch({name: batch[name] for name in ("image", "label", "mask")}, mesh))
            sums = part if sums is None else jax.tree.map(lambda a, b: a + b, sums, part)
    totals = {name: float(value) for name, value in sums.items()}
    count = totals.pop("count")
    return {name: total / count for name, total in totals.items()}


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
    source = open_split(settings.data, options.split) if options.split else open_splits(settings)[1]
    if source.classes != run.classes:
        raise UserError(f"The data have the classes {source.classes}, the run was trained on {run.classes}.")
    mesh = device_mesh(settings.data.batch_size, 1)
    step = Compiled(eval_step(run.model, task(settings), settings.precision), mesh)
    metrics = evaluate(step, replicated(values(run.model), mesh), source, settings, mesh)
    text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    make_console().print(
        f"{options.checkpoint} checkpoint (step {run.step}), {len(source)} examples: {text}", highlight=False
    )


if __name__ == "__main__":
    run_command(main)
