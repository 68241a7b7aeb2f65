"""What an evaluation of labels says beyond its metrics."""

from collections.abc import Sequence

import numpy as np

from jaxft.data.dataset import Dataset
from jaxft.reporting.details import Details, Example
from jaxft.tasks.class_figures import calibration_plot, class_table, precision_recall_plot
from jaxft.tasks.image_task import example_files, example_names


def label_details(
    dataset: Dataset,
    indices: Sequence[int],
    probabilities: np.ndarray,
    labels: np.ndarray,
    losses: np.ndarray,
    threshold: float,
) -> Details:
    """Figures by label, precision over recall, calibration, and every example.

    Args:
        indices: positions in the dataset of the `N` examples.
        probabilities: `[N, L]`.
        labels: 0 or 1, `[N, L]`.
        losses: `[N]`.
        threshold: the probability from which on a label is said.
    """
    names, true, said = dataset.classes, labels > 0, probabilities >= threshold
    titles, files = example_names(dataset), example_files(dataset, indices)
    examples = [
        Example(
            index=index,
            name=titles[index],
            truth=_listed(names, there),
            predicted=_listed(names, claimed),
            wrong=float(loss),
            certainty=float(np.maximum(row, 1 - row).min()),
            file=file,
        )
        for index, there, claimed, row, loss, file in zip(
            indices, true, said, probabilities, losses, files, strict=True
        )
    ]
    return Details(
        tables=(class_table(names, probabilities, said, true),),
        plots=(
            precision_recall_plot(names, probabilities, true),
            calibration_plot(probabilities.ravel(), true.ravel()),
        ),
        examples=tuple(examples),
    )


def _listed(names: Sequence[str], chosen: np.ndarray) -> str:
    return ", ".join(names[index] for index in np.flatnonzero(chosen).tolist()) or "none"
