"""The page of a run, `report.html`: made of its directory alone, and of its photos where they are still there."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from jaxft.activity import doing
from jaxft.config import Config
from jaxft.errors import UserError
from jaxft.fields import changed
from jaxft.pages.photos import LARGE, SMALL, Photos, Shots, galleries_of, of_cells
from jaxft.places import absolute, write_whole
from jaxft.reporting import beginning as beginnings
from jaxft.reporting.advice import Budget, advice
from jaxft.reporting.details import Confusion, Curve, Evaluation, Example, Plot, Table, whole
from jaxft.reporting.history import History, loss_plot, metric_plots, part_plots, read_history, speed_plots
from jaxft.reporting.page import (
    Block,
    Facts,
    Gallery,
    Matrix,
    Note,
    Page,
    Picture,
    Section,
    cell,
    embedded_file,
    render,
)
from jaxft.run import RunDirectory
from jaxft.tasks.task import Metric

LISTED = 20
MATRIX = 60  # classes in a confusion matrix

Heat = Callable[[Sequence[Example]], Mapping[int, str]]
"""Pictures to lie over examples, by their index."""


@dataclass(frozen=True)
class Found:
    """What a run directory holds by now.

    Attributes:
        beginning, evaluation: None where they are not there.
        metric: decides which model is best.
        own: what is the user's and not the configuration's.
        remarks: what cannot be read, a sentence each.
    """

    run: RunDirectory
    config: Config
    history: History
    beginning: beginnings.Beginning | None
    evaluation: Evaluation | None
    metric: Metric
    own: Mapping[str, str]
    remarks: tuple[str, ...]


def look(run: RunDirectory) -> Found:
    """What there is of a run, which may be under way or broken off.

    Raises:
        UserError: it is no run directory.
    """
    config, remarks = run.config(), list[str]()
    metric = config.task.task(config.dtype).primary_metric
    if config.best_metric is not None:
        metric = Metric(config.best_metric.removeprefix("-"), not config.best_metric.startswith("-"))
    beginning, evaluation = None, None
    try:
        if run.beginning_file.exists():
            beginning = beginnings.from_json(run.beginning_file.read_bytes(), str(run.beginning_file))
    except (UserError, OSError) as error:
        remarks.append(str(error))
    try:
        evaluation = run.evaluation()
    except UserError as error:
        remarks.append(str(error))
    own = dict[str, str]()
    try:
        own = {str(name): str(value) for name, value in run.own().items()}
    except (UserError, AttributeError):
        remarks.append(f"{run.own_file} cannot be read.")
    history = read_history(run.metrics_file)
    if history.unread:
        remarks.append(f"{history.unread} line(s) of {run.metrics_file} cannot be read and are left out.")
    if not history.train:
        remarks.append(f"{run.metrics_file} holds no metrics yet.")
    return Found(run, config, history, beginning, evaluation, metric, own, tuple(remarks))


def write_page(
    run: RunDirectory, photos: Photos | None, heat: Heat | None = None, survey: Sequence[Block] = ()
) -> Path:
    """Writes `report.html` and returns where it is.

    Args:
        photos: of the examples of the evaluation; None leaves pictures out.
        heat: where a model looks.
        survey: what there is to say of the data, as blocks.

    Raises:
        UserError: it is no run directory, or cannot be written.
    """
    with doing("writing the report"):
        found = look(run)
        sections = [
            _run(found),
            _data(found, survey),
            _weights(found),
            _curves(found),
            *_results(found, photos, heat),
            _next(found),
        ]
        page = Page(title_of(run), _subtitle(found), [section for section in sections if section.blocks])
        try:
            write_whole(run.page_file, render(page).encode(errors="replace"))
        except OSError as error:
            raise UserError(f"{run.page_file} cannot be written ({error}).") from error
    return run.page_file


def title_of(run: RunDirectory) -> str:
    """What to call a run: its folder."""
    return absolute(run.path).name or str(run.path)


def _subtitle(found: Found) -> str:
    best = found.history.best(found.metric.name, greater=found.metric.greater_is_better)
    said = f"best {found.metric.name} {best[found.metric.name]:.4f} in epoch {best['epoch']}, " if best else ""
    lines = found.history.train
    step = f"step {lines[-1]['step']}" if lines else "no step yet"
    whole = f" of {found.beginning.phases[-1].last}" if found.beginning and found.beginning.phases else ""
    now = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    return f"{found.config.task.kind}, {said}{step}{whole}; written {now}"


def _run(found: Found) -> Section:
    blocks: list[Block] = [Note(remark, warning=True) for remark in found.remarks]
    place = {"directory": str(found.run.path)}
    facts = found.beginning.facts if found.beginning else {}
    blocks.append(Facts({**facts, **place, **found.own}, "What was run"))
    if found.beginning and found.beginning.changed:
        rows = tuple((name, word(old), word(new)) for name, (old, new) in sorted(found.beginning.changed.items()))
        title, columns = "Settings that differ from those of the parent configuration", ("setting", "parent", "run")
        blocks.append(Table(name="parent", title=title, columns=columns, rows=rows))
    settings = {name: word(value) for name, value in changed(found.config).items()}
    blocks.append(Facts(settings, "Settings that are not the defaults"))
    return Section("run", "Run", blocks)


def word(value: object) -> str:
    """A setting for a person."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _data(found: Found, survey: Sequence[Block]) -> Section:
    said = zip(("Training", "Validation"), found.beginning.data if found.beginning else (), strict=False)
    blocks: list[Block] = [Note(f"{split}: {line}") for split, line in said]
    if source := embedded_file(found.run.pictures / "inputs.png"):
        blocks.append(Picture("Examples as training sees them", source))
    return Section("data", "Data", [*blocks, *survey])


def _weights(found: Found) -> Section:
    if found.beginning is None:
        return Section("weights", "Weights", [])
    blocks: list[Block] = [Note(line) for line in found.beginning.weights]
    if new := found.beginning.new:
        more = [f"and {len(new) - LISTED} more"] if len(new) > LISTED else []
        blocks.append(Note("New, not from a checkpoint: " + ", ".join([*new[:LISTED], *more])))
    rows = {
        f"phase {index}": f"steps {phase.first + 1} to {phase.last}, {phase.trained:,} numbers trained"
        for index, phase in enumerate(found.beginning.phases, 1)
    }
    return Section("weights", "Weights", [*blocks, Facts(rows, "Phases")])


def _curves(found: Found) -> Section:
    history, metric = found.history, found.metric
    if not history.train and not history.validation:
        return Section("curves", "Curves", [])
    plots = [loss_plot(history), *metric_plots(history, metric.name, greater=metric.greater_is_better)]
    plots += [*part_plots(history), *_rates(found), *speed_plots(history)]
    spent = _spent(found.run)
    bounds = tuple(float(phase.last) for phase in found.beginning.phases[:-1]) if found.beginning else ()
    return Section("curves", "Curves", [*(replace(plot, lines=bounds) for plot in plots), *spent])


def _spent(run: RunDirectory) -> list[Block]:
    """Where the time went since the last start; nothing of a run that has not ended in order."""
    try:
        shares = json.loads(run.time_file.read_bytes())
        return [Facts({str(cause): f"{float(share):.1%}" for cause, share in shares.items()}, "Where the time went")]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def _rates(found: Found) -> list[Plot]:
    """The rate of every group over the whole run."""
    points: dict[str, tuple[list[float], list[float | None]]] = {}
    for phase in found.beginning.phases if found.beginning else ():
        for label, rates in phase.groups.items():
            steps, values = points.setdefault(label, ([], []))
            if steps:
                steps.append(float(phase.first))
                values.append(None)  # a gap
            steps += map(float, phase.steps)
            values += rates
    curves = tuple(Curve(label=label, x=tuple(x), y=tuple(y)) for label, (x, y) in points.items())
    if not curves:
        return []
    return [Plot(name="rates", title="Learning rates of the groups", x="step", y="rate", curves=curves)]


def _results(found: Found, photos: Photos | None, heat: Heat | None) -> Iterator[Section]:
    evaluation = found.evaluation
    if evaluation is None:
        return
    when = f"The best model so far, after epoch {evaluation.epoch} (step {evaluation.step})"
    figures = {name: cell(evaluation.metrics[name]) for name in whole(evaluation.metrics)}
    blocks: list[Block] = [Facts({"examples": f"{evaluation.examples:,}", **figures}, when)]
    shots = small = Shots(photos, SMALL)
    if any(each.objects for each in evaluation.details.examples):
        shots = Shots(photos, LARGE)
    confusion = evaluation.details.confusion
    if confusion is not None and len(confusion.truths) <= MATRIX:
        chosen = of_cells(evaluation.details.examples)
        pictures = {example.index: source for example in chosen if (source := small.small(example))}
        blocks.append(Matrix(confusion, evaluation.details.examples, pictures))
    elif confusion is not None:
        blocks.append(_confused(confusion))
    yield Section("results", "Results", [*blocks, *evaluation.details.tables, *evaluation.details.plots])
    galleries = galleries_of(evaluation.details.examples)
    over = heat([each for some in galleries.values() for each in some]) if heat is not None else {}
    shown = [Gallery(title, [shots.photo(each, over) for each in some]) for title, some in galleries.items()]
    gone = [Note(f"{len(shots.gone)} of these photos are gone: " + ", ".join(shots.gone[:LISTED]), warning=True)]
    yield Section("photos", "Photos", [*(gone if shots.gone else []), *shown] if photos is not None else [])


def _confused(confusion: Confusion) -> Table:
    """The pairs of many classes that are taken for each other most."""
    counts = np.array(confusion.counts)
    pairs = [
        (confusion.truths[row], confusion.predictions[column], int(counts[row, column]))
        for row, column in np.argwhere(counts).tolist()
        if row != column
    ]
    pairs.sort(key=lambda pair: -pair[2])
    title = f"The {min(len(pairs), MATRIX)} most frequent confusions of {len(confusion.truths):,} classes"
    columns = ("truth", "taken for", "examples")
    return Table(name="confused", title=title, columns=columns, rows=tuple(pairs[:MATRIX]))


def _next(found: Found) -> Section:
    config = found.config
    last, settings = config.phases[-1], config.task
    budget = Budget(
        len(config.phases) - 1,
        last.epochs if last.steps is None else None,
        config.data.workers,
        config.optimizer.learning_rate,
        unweighted=getattr(settings, "class_weights", None) == () and config.data.balance == "none",
    )
    blocks: list[Block] = [Note(each.text, each.options) for each in advice(found.history, found.evaluation, budget)]
    if found.history.train and not blocks:
        blocks = [Note("Nothing stands out.")]
    return Section("next", "What to try next", blocks)
