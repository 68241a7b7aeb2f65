"""What a split of photos with numbers holds, and what is odd in it."""

from collections.abc import Sequence

import numpy as np

from jaxft.data.source import Source
from jaxft.reporting.details import Cell, Example, Plot, Table
from jaxft.reporting.survey import Remark, Survey, histogram, remark
from jaxft.tasks.photo_survey import survey_sources

FAR = 3.0
"""How many times the distance of the quartiles an ordinary number lies beyond them at most (Tukey's outer fence)."""


def survey(source: Source, seen: int) -> Survey:
    """What each target is like, sizes of photos, and remarks on numbers far from all others.

    Args:
        seen: the side of what the model sees of a photo, pixels.
    """
    found = [source[index] for index in range(len(source))]
    numbers = np.stack([np.asarray(one.label, np.float64) for one in found])
    examples, photos = survey_sources(found, (written_numbers(row, source.classes) for row in numbers), seen)
    plots: list[Plot] = []
    remarks: list[Remark] = []
    for name, column in zip(source.classes, numbers.T, strict=True):
        plots.append(histogram(f"target/{name}", name, name, column, "photos"))
        remarks += _odd(name, column, examples)
    columns = ("target", "mean", "deviation", "least", "quarter", "median", "three quarters", "most")
    rows: list[tuple[Cell, ...]] = [
        (name, *(float(f"{figure:.6g}") for figure in (column.mean(), column.std(), *np.quantile(column, _SHARES))))
        for name, column in zip(source.classes, numbers.T, strict=True)
    ]
    targets = Table(name="targets", title="Targets", columns=columns, rows=tuple(rows))
    return Survey(
        truths=tuple(example.truth for example in examples),
        tables=(targets, *photos.tables),
        plots=(*plots, *photos.plots),
        remarks=(*photos.remarks, *remarks),
    )


_SHARES = (0, 0.25, 0.5, 0.75, 1)


def _odd(name: str, column: np.ndarray, examples: list[Example]) -> list[Remark]:
    """Remarks on a target that is always the same, or now and then far from all others."""
    if column.min() == column.max():
        return [Remark(name="constant", title=f"{name} is always {column[0]:g}, so there is nothing to learn")]
    low, high = np.quantile(column, (0.25, 0.75))
    beyond = np.maximum(low - column, column - high)
    far = [index for index in np.argsort(-beyond, kind="stable") if beyond[index] > FAR * (high - low) > 0]
    return remark(
        "far", f"Photos whose {name} is far from all others: {len(far):,}", [examples[index] for index in far]
    )


def written_numbers(numbers: np.ndarray, names: Sequence[str]) -> str:
    """The number of each target."""
    return ", ".join(f"{name} {value:.6g}" for name, value in zip(names, numbers, strict=True))
