"""Pictures of a run: its learning curves, and photos with what the model says of them."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def learning_curves(lines: Sequence[Mapping[str, Any]], picture: Path, score: str) -> None:
    """Draws loss and, where it is evaluated, `score` over steps from the lines of `metrics.jsonl`, side by side."""
    figure = Figure(figsize=(10, 4))
    places = {"left": 0.07, "right": 0.98, "bottom": 0.13, "top": 0.92}
    names = [name for name in dict.fromkeys(("loss", score)) if name == "loss" or any(name in line for line in lines)]
    subplots = figure.subplots(1, len(names), gridspec_kw=places, squeeze=False)[0]
    for axes, name in zip(subplots, names, strict=True):
        for split in dict.fromkeys(line["split"] for line in lines if name in line):
            points = [(line["step"], line[name]) for line in lines if line["split"] == split and name in line]
            axes.plot(*zip(*points, strict=True), label=split, marker="o" if split != "train" else None, markersize=4)
        axes.set_xlabel("step")
        axes.set_title(name)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    _save(figure, picture)


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
    _save(figure, picture)


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
    _save(figure, picture)


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
    _save(figure, picture)


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


def _save(figure: Figure, picture: Path) -> None:
    encoded = BytesIO()
    figure.savefig(encoded, dpi=110, format="png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(encoded.getvalue())
