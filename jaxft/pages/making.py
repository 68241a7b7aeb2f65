"""The page of a run with what only the model and the data can add: photos, and where a classifier looks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib
import numpy as np
from PIL import Image
from rich.console import Console

from jaxft.activity import doing
from jaxft.config import Report
from jaxft.data.dataset import Dataset
from jaxft.errors import UserError
from jaxft.pages.comparison import write_comparison
from jaxft.pages.run import write_page
from jaxft.reporting.page import Block, Note, embedded_overlay
from jaxft.run import RunDirectory
from jaxft.tasks.task import Task
from jaxft.training.finished import open_run
from jaxft.training.fitted import Fitted
from jaxft.training.heat import heat_maps

HEAT = 112  # pixels of a heat map


def report(run: RunDirectory, how: Report) -> Path:
    """Writes `report.html` with the photos that there still are, and returns where it is.

    Args:
        how: `full` with where a classifier looks, `photos` without that, `plain` without any photo.

    Raises:
        UserError: it is no run directory, or cannot be written.
    """
    opened = None if how == "plain" else _opened(run)
    if opened is None:
        return write_page(run, None)
    task, train, validation = opened
    surveyed = [*_surveyed("Training", task, train), *_surveyed("Validation", task, validation)]
    if validation is None:
        return write_page(run, None, survey=surveyed)
    heat = partial(_heat, run, task, validation) if how == "full" else None
    return write_page(run, partial(task.photo, validation), heat, surveyed)


class Opened(NamedTuple):
    """The data of a run."""

    task: Task
    train: Dataset
    validation: Dataset | None


def _surveyed(name: str, task: Task, dataset: Dataset | None) -> list[Block]:
    """What a split holds, and what is odd in it, as blocks."""
    if dataset is None:
        return []
    found = task.survey(dataset)
    titled: list[Block] = [replace(each, title=f"{name}: {each.title}") for each in found.tables]
    titled += [replace(each, title=f"{name}: {each.title}") for each in found.plots]
    odd = [f"{name}: {each.title}" + (f", {each.count:,} examples" if each.count else "") for each in found.remarks]
    return [*(Note(f"{line}; jaxft browse shows more.") for line in odd), *titled]


def comparison(runs: Sequence[RunDirectory], file: Path, how: Report) -> None:
    """Writes a page about several runs; arguments as of `report`.

    Raises:
        UserError: one is no run directory, the tasks differ, or the page cannot be written.
    """
    opened = None if how == "plain" else _opened(runs[0])
    photos = None
    if opened is not None and opened.validation is not None:
        photos = partial(opened.task.photo, opened.validation)
    write_comparison(runs, photos, file)


def _opened(run: RunDirectory) -> Opened | None:
    """The data of a run; None where they are gone, or the user's own."""
    config = run.config()
    if "datasets" in run.own():
        return None
    task = config.task.task(config.dtype)
    try:
        with doing("listing the data"):
            return Opened(task, *task.datasets(config.data, config.seed))
    except UserError:
        return None


def report_of(fitted: Fitted, console: Console) -> None:
    """Writes the page of a run that has come to its end, and says where it is; of several processes the first one."""
    how = fitted.config.report
    if how == "none" or not fitted.complete or jax.process_index() != 0:
        return
    if jax.process_count() > 1 and how == "full":
        how = "photos"  # a model of several hosts is not opened by one of them
    try:
        said = f"  report: {report(RunDirectory.at(fitted.path), how)}"
    except Exception as error:  # the run itself is whole, whatever becomes of its page
        said = f"  report.html could not be written: {type(error).__name__}: {error}"
    console.print(said, highlight=False, markup=False, soft_wrap=True)


def _heat(run: RunDirectory, task: Task, dataset: Dataset, indices: Sequence[int]) -> Mapping[int, str]:
    """Where the best model looks in these examples, as pictures; nothing where that cannot be said."""
    if task.link is None or "model" in run.own() or not run.checkpoints.is_dir():
        return {}
    with doing("looking where the model looks"):
        opened = open_run(run.path)
        try:
            maps = heat_maps(task, opened.model, dataset, indices, opened.config.precision)
        except UserError:
            return {}  # photos are gone, which is said elsewhere
    return {index: embedded_overlay(_colored(heat)) for index, heat in maps.items()}


def _colored(heat: np.ndarray) -> np.ndarray:
    """A heat map `[h, w]`, 0..1, as uint8 `[HEAT, HEAT, 4]`, clearer where it is colder."""
    smooth = np.asarray(Image.fromarray(heat).resize((HEAT, HEAT), Image.Resampling.BICUBIC)).clip(0, 1)
    colors = matplotlib.colormaps["turbo"](smooth, bytes=True)
    colors[..., 3] = np.round(255 * smooth**0.5)
    return colors
