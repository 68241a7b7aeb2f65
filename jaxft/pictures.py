"""Pictures of a run: its learning curves, and photos with what the model says of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

_COLOURS = [tuple(round(255 * part) for part in colour) for colour in matplotlib.colormaps["tab10"].colors]  # type: ignore[attr-defined]


def learning_curves(metrics: Path, picture: Path, score: str) -> None:
    """Draws loss and `score` over steps from `metrics.jsonl`, training and evaluation side by side."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(10, 4))
    places = {"left": 0.07, "right": 0.98, "bottom": 0.13, "top": 0.92}
    for axes, name in zip(figure.subplots(1, 2, gridspec_kw=places), ("loss", score), strict=True):
        for split in dict.fromkeys(line["split"] for line in lines if name in line):
            points = [(line["step"], line[name]) for line in lines if line["split"] == split and name in line]
            axes.plot(*zip(*points, strict=True), label=split, marker="o" if split != "train" else None, markersize=4)
        axes.set_xlabel("step")
        axes.set_title(name)
        axes.grid(alpha=0.3)
        if axes.lines:
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
    titles, colours = [], []
    for index, row in enumerate(probabilities):
        guess = int(row.argmax())
        title, colour = f"{classes[guess]} {row[guess]:.0%}", "black"
        if labels is not None:
            truth = int(labels[index])
            colour = "green" if guess == truth else "red"
            title += "" if guess == truth else f"\n(is {classes[truth]})"
        titles.append(title)
        colours.append(colour)
    _mosaic(images, titles, colours, (2.2, 2.5), 6, picture)


def objects(
    pixels: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    masks: Sequence[np.ndarray],
    truth: np.ndarray | None,
    classes: Sequence[str],
) -> np.ndarray:
    """A photo uint8 `[H, W, 3]` with a frame, a name and a score for each object, and its mask tinted.

    Args:
        boxes: `[K, 4]`, corners in pixels; with `labels` and `scores` `[K]`.
        masks: `[H, W]` of 0 and 1 each; none where the model has none.
        truth: boxes `[T, 4]` that are drawn thin and white below all else, or None.
    """
    tinted = pixels.astype(np.float32)
    for mask, label in zip(masks, labels, strict=False):
        inside = mask.astype(bool)
        tinted[inside] = 0.5 * tinted[inside] + 0.5 * np.array([_COLOURS[label % len(_COLOURS)]], np.float32)
    image = Image.fromarray(tinted.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    thick = max(round(max(image.size) / 400), 1)
    font = ImageFont.load_default(max(10.0, max(image.size) / 45))
    for box in () if truth is None else truth.tolist():
        draw.rectangle(box, outline="white", width=1)
    order = np.argsort(scores)  # the best lie on top
    for box, label, score in zip(boxes[order].tolist(), labels[order].tolist(), scores[order].tolist(), strict=True):
        colour = _COLOURS[label % len(_COLOURS)]
        draw.rectangle(box, outline=colour, width=thick)
        text = f"{classes[label]} {score:.2f}"
        corner = (box[0], max(box[1] - font.getbbox(text)[3] - 2, 0))
        draw.rectangle(draw.textbbox(corner, text, font=font), fill=colour)
        draw.text(corner, text, fill="white", font=font)
    return np.asarray(image)


def grid(drawings: Sequence[np.ndarray], names: Sequence[str], picture: Path) -> None:
    """Draws photos uint8 `[H, W, 3]` of any sizes in a grid, three in a row, each under its name."""
    _mosaic(drawings, names, ["black"] * len(drawings), (5.0, 4.0), 3, picture)


def _mosaic(
    images: Sequence[np.ndarray] | np.ndarray,
    titles: Sequence[str],
    colours: Sequence[str],
    cell: tuple[float, float],
    columns: int,
    picture: Path,
) -> None:
    """Draws images in rows of `columns` cells, each as large as its cell, of so many inches, has room below its title.

    All lie in one `Axes`, whose unit is the inch: one for each of 24 images took three times as long, and with a layout
    engine five times.
    """
    margin, title = 0.08, 0.36
    columns = min(len(images), columns)
    width, height = cell[0] * columns, cell[1] * -(-len(images) // columns)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for index, (image, text, colour) in enumerate(zip(images, titles, colours, strict=True)):
        row, column = divmod(index, columns)
        centre, top = cell[0] * (column + 0.5), cell[1] * row + title
        across, down = image.shape[1], image.shape[0]
        inches = min((cell[0] - 2 * margin) / across, (cell[1] - title - margin) / down)  # of one pixel
        across, down = across * inches, down * inches
        axes.imshow(image, extent=(centre - across / 2, centre + across / 2, top + down, top), aspect="auto")
        text = text.replace("$", "\\$")  # which begins a formula
        axes.text(centre, top - margin / 2, text, fontsize=8, color=colour, ha="center", va="bottom")
    axes.set(xlim=(0, width), ylim=(height, 0))
    _save(figure, picture)


def save_pixels(pixels: np.ndarray, picture: Path) -> None:
    """Writes uint8 `[H, W, 3]` as an image file."""
    Image.fromarray(pixels).save(picture)


def _save(figure: Figure, picture: Path) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
