"""The page of a run with what only the model and the data can add: photos, and where a classifier looks."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from jaxft.config import Config, Report
from jaxft.config import replace as replace_fields
from jaxft.data.dataset import Dataset, name_and_truth
from jaxft.errors import UserError
from jaxft.pages.comparison import write_comparison
from jaxft.pages.run import write_page
from jaxft.reporting.details import Example, printable
from jaxft.reporting.page import Block, Note, embedded_overlay
from jaxft.run import RunDirectory
from jaxft.tasks.task import Task
from jaxft.training.finished import open_run
from jaxft.training.fitted import Fitted
from jaxft.training.heat import heat_maps

HEAT = 112  # pixels of a heat map
SURVEYED = 10_000  # examples of a split that is looked at whole


def report(run: RunDirectory, how: Report) -> Path:
    """Writes `report.html` with the photos that there still are, and returns where it is.

    Args:
        how: `full` with where a classifier looks, `photos` without that, `plain` without any photo.

    Raises:
        UserError: it is no run directory, or cannot be written.
    """
    if how == "plain":
        return write_page(run, None)
    opened = _opened(run)
    if isinstance(opened, str):
        return write_page(run, _gone, survey=[Note(opened, warning=True)]) if opened else write_page(run, None)
    surveyed = [*_surveyed("Training", opened, opened.train), *_surveyed("Validation", opened, opened.validation)]
    if opened.validation is None:
        return write_page(run, None, survey=surveyed)
    current = Current(opened.task, opened.validation)
    heat = partial(_heat, run, current) if how == "full" else None
    return write_page(run, current.photo, heat, surveyed)


class Opened(NamedTuple):
    """The data of a run as they are now."""

    config: Config
    task: Task
    train: Dataset
    validation: Dataset | None


class Current:
    """Examples of an evaluation in a dataset as it is now: found by their names, since files may have come and gone."""

    def __init__(self, task: Task, dataset: Dataset) -> None:
        self.task, self.dataset = task, dataset
        self._names = [printable(name_and_truth(line)[0]) for line in dataset.names()]
        self._places = {name: place for place, name in enumerate(self._names)}

    def place(self, example: Example) -> int:
        """Its position now.

        Raises:
            UserError: it is gone.
        """
        if example.index < len(self._names) and self._names[example.index] == example.name:
            return example.index
        if example.name not in self._places:
            raise UserError(f"{example.name} is gone.")
        return self._places[example.name]

    def photo(self, example: Example) -> np.ndarray:
        """See `jaxft.pages.photos.Photos`."""
        return self.task.photo(self.dataset, self.place(example))


def _gone(example: Example) -> np.ndarray:
    """The photo of an example whose data set is gone."""
    raise UserError(f"{example.name} is gone.")


def _surveyed(name: str, opened: Opened, dataset: Dataset | None) -> list[Block]:
    """What a split holds, and what is odd in it, as blocks; of one that would take long, that browse does it."""
    if dataset is None:
        return []
    if len(dataset) > SURVEYED or opened.config.data.check != "full":
        return [Note(f"{name}: {len(dataset):,} examples; jaxft browse looks at each of them.")]
    found = opened.task.survey(dataset)
    titled: list[Block] = [replace(each, title=f"{name}: {each.title}") for each in found.tables]
    titled += [replace(each, title=f"{name}: {each.title}") for each in found.plots]
    return [*(Note(f"{name}: {each.title}; jaxft browse shows more.") for each in found.remarks), *titled]


def comparison(runs: Sequence[RunDirectory], file: Path, how: Report) -> None:
    """Writes a page about several runs; arguments as of `report`.

    Raises:
        UserError: one is no run directory, the tasks differ, or the page cannot be written.
    """
    opened = "" if how == "plain" else _opened(runs[0])
    photos, remarks = None, [opened] if isinstance(opened, str) and opened else []
    if not isinstance(opened, str) and opened.validation is not None:
        photos = Current(opened.task, opened.validation).photo
    write_comparison(runs, photos, file, remarks)


def _opened(run: RunDirectory) -> Opened | str:
    """The data of a run, or why there are none: a sentence, empty of the user's own data."""
    config = replace_fields(run.config(), {"data.url": None, "data.sha1": None})  # a page downloads nothing
    if "datasets" in run.own():
        return ""
    task = config.task.task(config.dtype)
    try:
        with doing("listing the data"):
            return Opened(config, task, *task.datasets(config.data, config.seed))
    except UserError as error:
        return f"The photos cannot be shown: {error}"


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


def _heat(run: RunDirectory, current: Current, examples: Sequence[Example]) -> Mapping[int, str]:
    """Where the best model looks in these examples, as pictures; nothing of photos that are gone, and of models that
    cannot be opened again."""
    if current.task.link is None or "model" in run.own():
        return {}
    places = dict[int, int]()
    for example in examples:
        with suppress(UserError):
            places[example.index] = current.place(example)
            current.photo(example)
    try:
        with doing("looking where the model looks"):
            opened = open_run(run.path)
            maps = heat_maps(current.task, opened.model, current.dataset, [*places.values()], opened.config.precision)
    except UserError:
        return {}  # there is no checkpoint, or it is damaged
    return {index: embedded_overlay(_colored(maps[place])) for index, place in places.items() if place in maps}


def _colored(heat: np.ndarray) -> np.ndarray:
    """A heat map `[h, w]`, 0..1, as uint8 `[HEAT, HEAT, 4]`, clearer where it is colder."""
    smooth = np.asarray(Image.fromarray(heat).resize((HEAT, HEAT), Image.Resampling.BICUBIC)).clip(0, 1)
    colors = matplotlib.colormaps["turbo"](smooth, bytes=True)
    colors[..., 3] = np.round(255 * smooth**0.5)
    return colors
