"""What an evaluation of numbers says beyond its metrics."""

from collections.abc import Sequence

import numpy as np

from jaxft.data.dataset import Dataset
from jaxft.reporting.details import Curve, Details, Example, Plot, Table
from jaxft.tasks.image_task import example_files, example_names
from jaxft.tasks.regression.metrics import regression_metrics

PLOTTED = 6  # targets with plots of their own
BINS = 30


def number_details(
    dataset: Dataset, indices: Sequence[int], values: np.ndarray, labels: np.ndarray, losses: np.ndarray
) -> Details:
    """Figures by target, predicted over true numbers, residuals, and every example.

    Args:
        indices: positions in the dataset of the `N` examples.
        values, labels: predicted and true numbers, `[N, T]`.
        losses: `[N]`.
    """
    names = dataset.classes
    values, labels = values.astype(np.float64), labels.astype(np.float64)
    titles, files = example_names(dataset), example_files(dataset, indices)
    examples = [
        Example(index=index, name=titles[index], truth=_listed(names, true), predicted=_listed(names, said),
                wrong=float(loss), file=file)
        for index, true, said, loss, file in zip(indices, labels, values, losses, files, strict=True)
    ]  # fmt: skip
    rows = []
    for column, name in enumerate(names):
        figures = regression_metrics(values[:, [column]], labels[:, [column]], [name])
        residuals = values[:, column] - labels[:, column]
        range_ = (float(labels[:, column].min()), float(labels[:, column].max()))
        rows.append((name, figures["r2"], figures["mae"], figures["rmse"], float(residuals.mean()), *range_))
    columns = ("target", "R²", "mean absolute error", "RMSE", "mean residual", "smallest truth", "largest truth")
    plots = [
        plot
        for column, name in list(enumerate(names))[:PLOTTED]
        for plot in (_over(name, labels[:, column], values[:, column]), _residuals(name, labels, values, column))
    ]
    table = Table(name="targets", title="Targets", columns=columns, rows=tuple(rows))
    return Details(tables=(table,), plots=tuple(plots), examples=tuple(examples))


def _over(name: str, true: np.ndarray, said: np.ndarray) -> Plot:
    points = Curve(label=name, x=tuple(true), y=tuple(said), kind="markers")
    title = f"{name}: predicted over true"
    return Plot(name=f"predicted-{name}", title=title, x="true", y="predicted", curves=(points,), diagonal=True)


def _residuals(name: str, labels: np.ndarray, values: np.ndarray, column: int) -> Plot:
    residuals = values[:, column] - labels[:, column]
    heights, edges = np.histogram(residuals[np.isfinite(residuals)], BINS)
    bars = Curve(label=name, x=tuple((edges[1:] + edges[:-1]) / 2), y=tuple(heights), kind="bars")
    title = f"{name}: residuals"
    return Plot(name=f"residuals-{name}", title=title, x="predicted less true", y="examples", curves=(bars,))


def _listed(names: Sequence[str], numbers: np.ndarray) -> str:
    return ", ".join(f"{name} {number:.4g}" for name, number in zip(names, numbers, strict=True))
