"""Photos of an evaluation in one picture, the most wrong first; and photos as training sees them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxft.reporting.details import Example, worst_first
from jaxft.reporting.mosaic import Line, fitted, mosaic
from jaxft.reporting.objects import class_colors, draw_objects

WORST, OTHERS = 12, 12
"""Examples in a gallery: the most wrong ones, and some from all over the rest."""
PLAIN, DETAILED = (220, 220), (460, 345)
"""Width and height of a photo in pixels, and of one with objects drawn in it."""
LEGEND = "frames with dashes: what is there, named where it was missed; in one color: what was found, with its score"
RIGHT, WRONG, NAME = "#15803d", "#b91c1c", "#6b7280"

Panel = Callable[[Example, tuple[int, int]], np.ndarray]
"""An example as a picture, at most so wide and high."""


def chosen(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """The most wrong examples, the worst first, and some from all over the rest.

    Where some of the examples have objects, only those are taken from the rest: of the others objects were not kept.
    """
    ordered = worst_first(examples)
    worst, rest = ordered[:WORST], sorted(ordered[WORST:], key=lambda one: one.index)
    rest = [one for one in rest if one.objects] or rest
    places = np.linspace(0, len(rest) - 1, min(OTHERS, len(rest))).astype(int)
    return worst, [rest[place] for place in places]


def draw_gallery(examples: Sequence[Example], panel: Panel, when: str, picture: Path) -> None:
    """Draws the most wrong examples, the worst first, and some others, each under its name, what it is and what the
    model says.

    Args:
        when: which model it is, such as `step 120 (epoch 3)`.
    """
    worst, others = chosen(examples)
    shown = [*worst, *others]
    detailed = any(one.objects for one in shown)
    cell = DETAILED if detailed else PLAIN
    said = f"{when}: the {len(worst)} most wrong, worst first" + (f"; then {len(others)} others" if others else "")
    heading = [Line(said)]
    if detailed:
        heading.append(Line(LEGEND, NAME))
    panels = [panel(one, cell) for one in shown]
    mosaic(panels, [_title(one) for one in shown], picture, cell=cell, columns=3 if detailed else 6, heading=heading)


def _title(example: Example) -> list[Line]:
    """The name, what the model says, and, where that is not simply right, what is there."""
    name = Line(example.name, NAME, "start")
    if example.objects or (not example.cells and example.predicted != example.truth):
        return [name, Line(example.predicted), Line(f"is {example.truth}")]
    if all(row == column for row, column in example.cells):
        return [name, Line(example.predicted, RIGHT)]
    return [name, Line(example.predicted, WRONG), Line(f"is {example.truth}", WRONG)]


def draw_inputs(
    pixels: Sequence[np.ndarray], examples: Sequence[Example], classes: Sequence[str], remark: str, picture: Path
) -> None:
    """Draws examples as training sees them, augmented, each under its name and its ground truth.

    Args:
        pixels: uint8 `[H, W, 3]` each, in which the examples' objects are measured.
        remark: follows the heading.
    """
    cell, colors = DETAILED if any(one.objects for one in examples) else PLAIN, class_colors(classes)
    panels = []
    for image, one in zip(pixels, examples, strict=True):
        panel, factor = fitted(image, cell)
        panels.append(draw_objects(panel, one.objects, colors, factor, plain=True) if one.objects else panel)
    titles = [[Line(one.name, NAME, "start"), Line(one.truth)] for one in examples]
    heading = [Line(f"What the model is fed in training, after augmentation{remark}")]
    mosaic(panels, titles, picture, cell=cell, columns=3 if cell == DETAILED else 6, heading=heading)
