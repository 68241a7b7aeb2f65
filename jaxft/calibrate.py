"""One temperature for a run's logits: `python -m jaxft.calibrate --run DIR`; see `jaxft.calibration`."""

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxft.memory import keep_memory

if __name__ == "__main__":
    keep_memory()  # before what would be imported twice

import numpy as np
import tyro
from rich.table import Table

from jaxft.activity import doing
from jaxft.calibration import Calibration, Scores, bins, fitted, scores, weights_word, write_calibration
from jaxft.cli import program, run_command, start
from jaxft.errors import UserError
from jaxft.evaluate import configured, opened, split_name
from jaxft.hardware import Hardware
from jaxft.inference import host_arrays
from jaxft.reporting.console import make_console
from jaxft.run import RunDirectory

if TYPE_CHECKING:
    from jaxft.activity import Counted
    from jaxft.tasks.task import Prediction
    from jaxft.tasks.views import Link


@dataclass(frozen=True, kw_only=True)
class Options:
    """Finds the temperature at which a run's probabilities are most likely on a split, writes it to calibration.json in
    the run directory, for `--calibrated` of evaluate, predict and export, and draws the reliability diagram there."""

    run: Path
    """The run directory."""
    split: str | None = None
    """Another split than the one that the run evaluates on; it must not be one that it was trained on."""
    root: str | None = None
    """Another data folder than the run's."""
    share: float = 1.0
    """Choose the temperature on this share of the split, drawn at random, and report on the rest; 1 chooses and reports
    on all of it."""
    checkpoint: Literal["best", "last"] | int | None = None
    """Which model of the run; by default the best where an evaluation has chosen one, and else the last. A number is
    the step of one that `keep_checkpoints` has kept."""
    json: bool = False
    """Print one JSON object on standard output, and all else on standard error."""
    hang_after: float = Hardware().hang_after
    """As of `hardware.hang_after`, from the first photo on."""
    distributed: bool = False
    """This is one of several processes that share the work; see `jaxft train --help`."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog=program("calibrate"))
    directory = RunDirectory.at(options.run)
    config = configured(directory, options.root)
    if not 0 < options.share <= 1 or options.hang_after <= 0:
        raise UserError(
            f"--share is {options.share:g} and --hang-after {options.hang_after:g}; one is above 0 and at most 1, the "
            "other above 0."
        )
    start(distributed=options.distributed)
    import jax

    from jaxft.reporting.screen import Screen
    from jaxft.training.evaluation import run_predictor
    from jaxft.training.finished import open_run
    from jaxft.training.watchdog import watched

    first, task = jax.process_index() == 0, config.task.task(config.dtype)
    link, picture = task.link, directory.pictures / "reliability.png"
    if link is None:
        raise UserError(f"The task is {config.task.kind}, which has no logits of classes or labels to be calibrated.")
    console = make_console(quiet=not first, stderr=options.json)
    with Screen(console) as screen, doing("opening the run"):
        run = open_run(options.run, options.checkpoint)
        dataset = opened(directory, config, task, options.split)
        predictor, arrays = run_predictor(run, task)
        watching = watched(options.hang_after, directory.path, jax.process_index())
        with closing(predictor), watching, doing("predicting") as counted:
            logits, labels = collected(predictor(arrays, dataset), len(dataset), counted)
        chosen, reported = halves(len(dataset), options.share)
        found = Calibration(
            temperature=fitted(logits[chosen], labels[chosen], link),
            link=link,
            checkpoint=run.checkpoint,
            step=run.step,
            weights=weights_word(host_arrays(run.model)),
            split=options.split or split_name(config.data),
            examples=len(chosen),
        )
        figures = {name: scores(logits[reported], labels[reported], link, divisor) for name, divisor in both(found)}
        if first:
            write_calibration(directory, found)
            with doing("drawing"):
                draw(logits[reported], labels[reported], link, found, picture)
        where = f"{found.split}: " if found.split else ""
        on = "the same" if options.share == 1 else f"the other {len(reported)}"
        screen.say(
            f"{run.checkpoint} checkpoint (step {run.step}). The temperature is {found.temperature:.4f}, chosen on "
            f"{where}{found.examples} examples; the figures are of {on}."
        )
    if not first:
        return
    if options.json:
        told = {name: value._asdict() for name, value in figures.items()}
        print(json.dumps({"temperature": found.temperature, "examples": len(reported), **told}))
        return
    console.print(table(figures))
    console.print(f"Written to {directory.calibration_file}, drawn in {picture}", highlight=False, soft_wrap=True)


def both(found: Calibration) -> tuple[tuple[str, float], ...]:
    """What logits are divided by before and after."""
    return ("before", 1.0), ("after", found.temperature)


def collected(
    predictions: "Iterable[tuple[int, Prediction]]", count: int, counted: "Counted"
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[N, C]` in float64 and labels of a dataset of `count` examples, in its order."""
    found: dict[int, Prediction] = {}
    for index, prediction in predictions:
        found[index] = {"logits": prediction["logits"], "label": prediction["label"]}
        counted(len(found), count)
    rows = [found[index] for index in sorted(found)]
    return np.stack([row["logits"] for row in rows]).astype(np.float64), np.stack([row["label"] for row in rows])


def halves(count: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Which examples a temperature is chosen on, and which the figures are of: always the same ones of a split.

    Raises:
        UserError: none would be left for one of both.
    """
    if share == 1:
        return np.arange(count), np.arange(count)
    order, cut = np.random.default_rng(0).permutation(count), round(count * share)
    if not 0 < cut < count:
        raise UserError(f"A share of {share:g} of {count} examples leaves none on one side; choose another --share.")
    return np.sort(order[:cut]), np.sort(order[cut:])


def draw(logits: np.ndarray, labels: np.ndarray, link: "Link", found: Calibration, picture: Path) -> None:
    """Draws the reliability diagram, before and after.

    Raises:
        UserError: the file cannot be written.
    """
    from jaxft.reporting.pictures import reliability_diagrams

    diagrams = {}
    for name, divisor in both(found):
        each = bins(logits, labels, link, divisor)
        diagrams[f"{name}: T = {divisor:.3f}, ECE {each.error:.4f}"] = each
    label = "share that is right" if link == "softmax" else "share that has the label"
    try:
        reliability_diagrams(diagrams, label, picture)
    except OSError as error:
        raise UserError(f"{picture} cannot be written ({error}).") from error


def table(figures: dict[str, Scores]) -> Table:
    """The figures before and after, a row each."""
    shown = Table("", "negative log-likelihood", "expected calibration error", "Brier score")
    for name, found in figures.items():
        shown.add_row(name, *(f"{value:.4f}" for value in found))
    return shown


if __name__ == "__main__":
    run_command(main)
