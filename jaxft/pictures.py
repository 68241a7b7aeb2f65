"""PNG pictures of a run: its learning curves, and test photos with what the model says of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def learning_curves(metrics: Path, picture: Path) -> None:
    """Draws loss and accuracy over epochs from `metrics.jsonl`, training and evaluation side by side."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split in dict.fromkeys(line["split"] for line in lines):
            points = [(line["step"], line[name]) for line in lines if line["split"] == split and name in line]
            axes.plot(*zip(*points, strict=True), label=split, marker="o" if split != "train" else None, markersize=4)
        axes.set_xlabel("step")
        axes.set_title(name)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, picture)


def predictions(
    images: np.ndarray,
    labels: Sequence[int] | None,
    probabilities: np.ndarray,
    classes: Sequence[str],
    picture: Path,
) -> None:
    """Draws images uint8 `[N, H, W, 3]` in a grid, each with the predicted class, its probability and the truth.

    A green title is right, a red one wrong, a black one has no known label (`labels` is None).
    """
    columns = min(len(images), 6)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows), layout="constrained")
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if index >= len(images):
            continue
        axes.imshow(images[index])
        guess = int(probabilities[index].argmax())
        title = f"{classes[guess]} {probabilities[index][guess]:.0%}"
        colour = "black"
        if labels is not None:
            truth = int(labels[index])
            colour = "green" if guess == truth else "red"
            title += "" if guess == truth else f"\n(is {classes[truth]})"
        axes.set_title(title, fontsize=8, color=colour)
    _save(figure, picture)


def _save(figure: Figure, picture: Path) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
