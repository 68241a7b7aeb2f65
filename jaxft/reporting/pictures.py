"""Figures of commands: rates, spreads, reliability, predicted over true numbers."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def rate_curve(points: Sequence[tuple[float, float, float]], found: float | None, picture: Path) -> None:
    """Draws losses over learning rates, from (rate, loss, smoothed loss), and a line at a rate that was found."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    rates, losses, smooth = zip(*points, strict=True) if points else ((), (), ())
    axes.plot(rates, losses, color="lightgray", label="loss")
    axes.plot(rates, smooth, label="smoothed")
    if found is not None:
        axes.axvline(found, color="tab:red", linestyle="--", label=f"{found:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, picture)


def spreads(groups: Mapping[str, Sequence[float]], label: str, picture: Path) -> None:
    """Draws the numbers of each group as points in a row of its own, the first on top, with a line at their mean."""
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for row, numbers in enumerate(groups.values()):
        axes.plot(numbers, [row] * len(numbers), "o", color="tab:blue", alpha=0.6)
        axes.plot([np.mean(numbers)] * 2, [row - 0.3, row + 0.3], color="tab:red")
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set(xlabel=label, ylim=(len(groups) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    save(figure, picture)


def reliability_diagrams(groups: Mapping[str, Sequence[np.ndarray]], label: str, picture: Path) -> None:
    """Draws, side by side, how often something was so over the probability that it was given.

    Args:
        groups: by title, counts, mean probabilities and shares of what was so, of bins of equal width, NaN where empty.
        label: what the vertical axis shows.
    """
    figure = Figure(figsize=(4 * len(groups), 4.2), layout="constrained")
    subplots = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (title, (count, said, true)) in zip(subplots, groups.items(), strict=True):
        edges = np.arange(len(count)) / len(count)
        there, width = count > 0, 1 / len(count)
        axes.bar(edges[there], true[there], width, align="edge", edgecolor="white", color="tab:blue", label=label)
        gap = {"align": "edge", "color": "tab:red", "alpha": 0.35, "label": "difference to what is said"}
        axes.bar(edges[there], (said - true)[there], width, bottom=true[there], **gap)
        axes.plot(edges + width / 2, count / count.sum(), ".-", color="gray", linewidth=0.8, label="share of all")
        axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=0.8)
        axes.set(title=title, xlabel="probability that is said", xlim=(0, 1), ylim=(0, 1))
        axes.grid(alpha=0.3)
    subplots[0].set_ylabel(label)
    subplots[0].legend(loc="upper left", fontsize=8)
    save(figure, picture)


def scatter(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Predicted numbers over true ones, `[N]` each, with the line on which they are equal: uint8 `[H, W, 3]`."""
    figure = Figure(figsize=(2.2, 2.2), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axes.plot(ends, ends, color="gray", linewidth=0.8)
    axes.scatter(true, predicted, s=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def save(figure: Figure, picture: Path) -> None:
    """Writes a figure as a PNG into a folder that is made where it is missing, on a disk or in a bucket."""
    encoded = BytesIO()
    figure.savefig(encoded, dpi=110, format="png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(encoded.getvalue())
