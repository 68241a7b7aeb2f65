"""The learning curves of a run as one picture."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxft.reporting.details import Curve, Plot
from jaxft.reporting.history import History, curve, loss_plot, metric_plots, part_plots
from jaxft.reporting.pictures import save

WIDE = 20.0
"""A loss whose largest value is more than so many times its smallest one has a logarithmic axis."""
KINDS = {
    "lines": {"linewidth": 1.6},
    "faint": {"linewidth": 0.8, "alpha": 0.35},
    "points": {"marker": "o", "markersize": 4, "linewidth": 1.4},
    "markers": {"marker": "o", "markersize": 4, "linestyle": ""},
    "star": {"marker": "*", "markersize": 14, "linestyle": "", "zorder": 5},
}


def learning_plots(history: History, score: str, *, greater: bool) -> list[Plot]:
    """Loss, the score that chooses the best model, the parts of the loss, and the highest rate of all groups."""
    plots = [loss_plot(history)]
    if any(score in line for line in history.validation) and score != "loss":
        plots += [plot for plot in metric_plots(history, score, greater=greater) if plot.name == "metric"]
    plots += part_plots(history)
    rate = curve("learning rate", history.train, "learning_rate")
    plots.append(Plot(name="rate", title="Highest learning rate", x="step", y="rate", curves=(rate,)))
    return [plot for plot in plots if any(one.x for one in plot.curves)]


def draw_learning_curves(
    history: History, score: str, picture: Path, *, greater: bool, steps_per_epoch: int, phases: Sequence[int]
) -> None:
    """Draws `learning_plots` over epochs, with a line where each phase but the first begins.

    Args:
        score: the metric that chooses the best model.
        greater: whether a greater one is better.
        phases: the last step of each phase.
    """
    plots = [_over_epochs(plot, steps_per_epoch) for plot in learning_plots(history, score, greater=greater)]
    columns = 2 if len(plots) == 4 else min(len(plots), 3)
    rows = -(-len(plots) // max(columns, 1))
    figure = Figure(figsize=(5.4 * max(columns, 1), 3.7 * max(rows, 1)), layout="constrained")
    for index, plot in enumerate(plots):
        axes = figure.add_subplot(rows, columns, index + 1)
        last = max((x for one in plot.curves for x in one.x), default=0.0)
        draw_plot(axes, plot)
        for number, step in enumerate(phases[:-1], 2):
            if step / steps_per_epoch < last:
                axes.axvline(step / steps_per_epoch, color="gray", linestyle=":", linewidth=1)
                place = (step / steps_per_epoch, 1.0)
                axes.annotate(f" phase {number}", place, xycoords=("data", "axes fraction"), va="top", fontsize=7)
        if last >= 1:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, picture)


def _over_epochs(plot: Plot, steps_per_epoch: int) -> Plot:
    curves = tuple(replace(one, x=tuple(x / steps_per_epoch for x in one.x)) for one in plot.curves)
    return replace(plot, x=f"epoch ({steps_per_epoch:,} steps each)", curves=curves)


def draw_plot(axes: Axes, plot: Plot) -> None:
    """Draws curves; a faint one and the next one, which smooths it, have one color."""
    colors = [f"C{number}" for number in range(10)]
    used = 0
    for one in plot.curves:
        label = one.label if len(one.label) <= 40 else f"{one.label[:39]}…"
        values = [math.nan if y is None else y for y in one.y]
        color = "goldenrod" if one.kind == "star" else colors[used % len(colors)]
        axes.plot(one.x, values, label=label.replace("$", "\\$"), color=color, **KINDS[one.kind])  # type: ignore[arg-type]
        used += one.kind not in ("faint", "star")
    axes.set_title(plot.title.replace("$", "\\$"), fontsize=10)
    axes.set_xlabel(plot.x, fontsize=8)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.25)
    if plot.y == "loss" and _wide(plot.curves):
        axes.set_yscale("log")
    if plot.name == "rate":
        axes.set_ylim(bottom=0)
    if len(plot.curves) > 1:
        axes.legend(fontsize=8)


def _wide(curves: Sequence[Curve]) -> bool:
    """Whether positive numbers alone are to be shown, of very different size."""
    values = np.array([y for one in curves for y in one.y if y is not None and math.isfinite(y)])
    return bool(values.size) and values.min() > 0 and values.max() > WIDE * values.min()
