"""The lines of `metrics.jsonl` as curves."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxft.reporting.details import Curve, Kind, Plot, whole

Line = Mapping[str, Any]
FADING = 0.9  # of the smoothed loss of the last 10 lines or so
SMOOTHED_FROM = 20  # lines


class History(NamedTuple):
    """The lines of training and of evaluation, in order, and how many lines cannot be read."""

    train: list[Line]
    validation: list[Line]
    unread: int = 0

    def best(self, name: str, *, greater: bool) -> Line | None:
        """The first evaluation with the best value of a metric; None where it is not there."""
        lines = [line for line in self.validation if np.isfinite(line.get(name, np.nan))]
        if not lines:
            return None
        return (max if greater else min)(lines, key=lambda line: line[name])


def read_history(file: Path) -> History:
    """What a run has written so far; a line that a kill has cut in two is left out."""
    lines, unread = list[Line](), 0
    texts = file.read_bytes().decode("utf-8", "replace").splitlines() if file.exists() else ()
    for text in texts:
        try:
            line = json.loads(text)
            place = {"step": int(line["step"]), "epoch": int(line.get("epoch", 0)), "split": str(line["split"])}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            unread += bool(text.strip())
            continue
        lines.append({name: value for name, value in line.items() if type(value) in (int, float)} | place)
    return history_of(lines)._replace(unread=unread)


def history_of(lines: Sequence[Line]) -> History:
    """Lines by their split."""
    train, validation = ([line for line in lines if line["split"] == split] for split in ("train", "validation"))
    return History(train, validation)


def smoothed(values: Sequence[float]) -> list[float]:
    """An exponential moving average, whose first values are not drawn towards 0 (Adam's correction)."""
    average, found = 0.0, []
    for count, value in enumerate(values, 1):
        average = FADING * average + (1 - FADING) * value
        found.append(average / (1 - FADING**count))
    return found


def curve(label: str, lines: Iterable[Line], name: str, kind: Kind = "lines") -> Curve:
    """A figure over steps."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    return Curve(label=label, x=tuple(x for x, _ in points), y=tuple(y for _, y in points), kind=kind)


def loss_plot(history: History) -> Plot:
    """The loss of both splits; that of training smoothed, too, where it has many points."""
    raw, curves = curve("train", history.train, "loss"), []
    if len(raw.x) >= SMOOTHED_FROM:
        curves.append(Curve(label="train, each line", x=raw.x, y=raw.y, kind="faint"))
        raw = Curve(label="train, smoothed", x=raw.x, y=tuple(smoothed([y or 0.0 for y in raw.y])))
    curves.append(raw)
    validation = curve("validation", history.validation, "loss", "points")
    curves += [validation] if validation.x else []
    return Plot(name="loss", title="Loss", x="step", y="loss", curves=tuple(curves))


def metric_plots(history: History, name: str, *, greater: bool) -> list[Plot]:
    """The metric that chooses the best model with its best point, and all others of whole evaluations in one plot."""
    plots = []
    if best := history.best(name, greater=greater):
        point = Curve(label=f"best: {best[name]:.4f}", x=(best["step"],), y=(best[name],), kind="star")
        pair = (curve(name, history.validation, name, "points"), point)
        plots.append(Plot(name="metric", title=name, x="step", y=name, curves=pair))
    names = whole(dict.fromkeys(key for line in history.validation for key in line))
    others = [key for key in names if key not in ("step", "epoch", "split", "loss", name)]
    if others:
        curves = tuple(curve(key, history.validation, key, "points") for key in others)
        title = "Other metrics" if len(others) > 1 else others[0]
        plots.append(Plot(name="metrics", title=title, x="step", y="", curves=curves))
    return plots


def part_plots(history: History) -> list[Plot]:
    """The parts of the training loss, where it has some."""
    names = dict.fromkeys(key for line in history.train for key in line if "loss" in key and key != "loss")
    if not names:
        return []
    curves = tuple(curve(name, history.train, name) for name in names)
    return [Plot(name="parts", title="Parts of the training loss", x="step", y="loss", curves=curves)]


def speed_plots(history: History) -> list[Plot]:
    """Images a second, and the share of the time spent in steps and in waiting for data."""
    shares = {"goodput": "in steps, since the start", "data_wait": "waiting for data"}
    plots = [
        Plot(
            name="speed",
            title="Images per second",
            x="step",
            y="images per second",
            curves=(curve("images per second", history.train, "images_per_second"),),
        ),
        Plot(
            name="shares",
            title="Share of the time",
            x="step",
            y="share",
            curves=tuple(curve(label, history.train, name) for name, label in shares.items()),
        ),
    ]
    steps = curve("seconds of a step", history.train, "step_seconds")
    if steps.x:
        plots.append(Plot(name="steps", title="Median seconds of a step", x="step", y="seconds", curves=(steps,)))
    if any("peak_memory" in line for line in history.train):
        gigabytes = [
            {**line, "peak_memory": line["peak_memory"] / 1e9} for line in history.train if "peak_memory" in line
        ]
        memory = curve("peak memory", gigabytes, "peak_memory")
        plots.append(Plot(name="memory", title="Peak memory of the process", x="step", y="GB", curves=(memory,)))
    return plots
