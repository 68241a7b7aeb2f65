"""Several runs side by side: what differs between them, their curves, their figures, and where they disagree."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jaxft.activity import doing
from jaxft.errors import UserError
from jaxft.fields import flat
from jaxft.pages.photos import LARGE, SMALL, Photos, Shots
from jaxft.pages.run import Found, look, title_of, word
from jaxft.places import write_whole
from jaxft.reporting.details import Cell, Example, Plot, Table, whole
from jaxft.reporting.history import curve
from jaxft.reporting.page import Block, Gallery, Note, Page, Photo, Section, link_to, render
from jaxft.run import RunDirectory

SHOWN = 48  # photos about which runs disagree


def write_comparison(
    runs: Sequence[RunDirectory], photos: Photos | None, file: Path, remarks: Sequence[str] = ()
) -> None:
    """Writes a page about several runs.

    Args:
        photos: of the examples of the first run's evaluation; None leaves pictures out.
        remarks: what a person should know, such as why there are none.

    Raises:
        UserError: one is no run directory, the tasks differ, or the page cannot be written.
    """
    with doing("writing the comparison"):
        found = [look(run) for run in runs]
        kinds = {each.config.task.kind for each in found}
        if len(kinds) > 1:
            raise UserError(f"The runs are of the tasks {', '.join(sorted(kinds))}; compare runs of one task.")
        names, notes = _names(runs), [Note(line, warning=True) for line in remarks]
        sections = [
            Section("runs", "Runs", [*_remarks(found, names), _settings(found, names), _figures(found, names)]),
            Section("curves", "Curves", _curves(found, names)),
            Section("photos", "Where they disagree", [*notes, *_disagreements(found, names, photos)]),
        ]
        when = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
        page = Page(f"{len(runs)} runs", f"{', '.join(names)}; written {when}", [s for s in sections if s.blocks])
        try:
            write_whole(file, render(page).encode(errors="replace"))
        except OSError as error:
            raise UserError(f"{file} cannot be written ({error}); choose another --output.") from error


def _names(runs: Sequence[RunDirectory]) -> list[str]:
    """What to call each run: its folder; where two are called the same, its path and its number, too."""
    short = [title_of(run) for run in runs]
    if len(set(short)) == len(short):
        return short
    return [f"{number}: {run.path}" for number, run in enumerate(runs, 1)]


def _remarks(found: Sequence[Found], names: Sequence[str]) -> list[Block]:
    remarks = [f"{name}: {line}" for name, each in zip(names, found, strict=True) for line in each.remarks]
    return [Note(line, warning=True) for line in remarks]


def _settings(found: Sequence[Found], names: Sequence[str]) -> Block:
    """The settings that are not the same in all runs."""
    settings = [flat(each.config) for each in found]
    paths = dict.fromkeys(path for each in settings for path in each)
    rows: list[tuple[Cell, ...]] = []
    for path in paths:
        values = [word(each[path]) if path in each else "" for each in settings]
        if len(set(values)) > 1:
            rows.append((path, *values))
    if not rows:
        return Note("All settings are the same.")
    return Table(name="settings", title="Settings that differ", columns=("setting", *names), rows=tuple(rows))


def _figures(found: Sequence[Found], names: Sequence[str]) -> Block:
    """The best and the last evaluation of each run, and what they took."""
    metrics = whole(dict.fromkeys(key for each in found for line in each.history.validation for key in line))
    others = [key for key in metrics if key not in ("step", "epoch", "split")]
    rows: list[tuple[Cell, ...]] = []
    metric = found[0].metric
    for name, each in zip(names, found, strict=True):
        best = each.history.best(metric.name, greater=metric.greater_is_better)
        last = each.history.validation[-1] if each.history.validation else {}
        train = each.history.train[-1] if each.history.train else {}
        rows.append(
            (
                name,
                best[metric.name] if best else None,
                best["epoch"] if best else None,
                *(last.get(key) for key in others),
                train.get("step"),
                train.get("images_per_second"),
            )
        )
    columns = (
        "run",
        f"best {metric.name}",
        "in epoch",
        *(f"last {key}" for key in others),
        "steps",
        "images per second",
    )
    return Table(name="figures", title="Figures", columns=columns, rows=tuple(rows))


def _curves(found: Sequence[Found], names: Sequence[str]) -> list[Block]:
    """The training loss, and every figure of the evaluations, of all runs over each other."""
    kinds: list[tuple[str, str]] = [("train", "loss")]
    validation = dict.fromkeys(key for each in found for line in each.history.validation for key in line)
    kinds += [("validation", key) for key in whole(validation) if key not in ("step", "epoch", "split")]
    plots: list[Block] = []
    for split, key in kinds:
        curves = [
            curve(name, getattr(each.history, split), key, "lines" if split == "train" else "points")
            for name, each in zip(names, found, strict=True)
        ]
        shown = tuple(each for each in curves if each.x)
        if shown:
            plots.append(Plot(name=f"{split}-{key}", title=f"{split}: {key}", x="step", y=key, curves=shown))
    return plots


def _disagreements(found: Sequence[Found], names: Sequence[str], photos: Photos | None) -> list[Block]:
    """The examples of which runs say something else, those first where the runs are wrong by the most different
    amounts."""
    evaluations = [each.evaluation.details.examples if each.evaluation else () for each in found]
    if not all(evaluations):
        return [Note("Not all of the runs have been evaluated yet.")]
    tables = [{each.name: each for each in examples} for examples in evaluations]
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    apart = [name for name in shared if len({_said(table[name]) for table in tables}) > 1]
    apart.sort(key=lambda name: -_spread([table[name] for table in tables]))
    most = max(map(len, tables))
    said = f"The runs say different things of {len(apart)} of {len(shared)} examples"
    blocks: list[Block] = [
        Note(f"{said} that all of them were evaluated on, of {most}." if len(shared) < most else f"{said}.")
    ]
    rows = [(name, tables[0][name].truth, *(table[name].predicted for table in tables)) for name in apart[:SHOWN]]
    if not rows:
        return blocks
    columns = ("example", "truth", *names)
    blocks.append(Table(name="apart", title="Most different first", columns=columns, rows=tuple(rows)))
    if photos is None:
        return blocks
    shots = Shots(photos, LARGE if any(each.objects for each in evaluations[0]) else SMALL)
    shown = []
    for name, truth, *predicted in rows:
        lines = (name, f"is {truth}", *(f"{run}: {each}" for run, each in zip(names, predicted, strict=True)))
        shown.append(Photo(shots.small(tables[0][name]), lines, link=link_to(tables[0][name].file)))
    return [*blocks, Gallery("Most different first", shown)]


def _said(example: Example) -> str:
    """What is said, without how sure it is."""
    sure = bool(example.cells) and example.certainty is not None  # in percent, after the class
    return example.predicted.rpartition(" ")[0] if sure else example.predicted


def _spread(examples: Sequence[Example]) -> float:
    wrong = [each.wrong for each in examples]
    return max(wrong) - min(wrong)
