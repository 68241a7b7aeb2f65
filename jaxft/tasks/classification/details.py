"""What an evaluation of classes says beyond its metrics."""

from collections.abc import Sequence

import numpy as np

from jaxft.data.dataset import Dataset
from jaxft.reporting.details import Confusion, Details, Example
from jaxft.tasks.class_figures import calibration_plot, class_table, precision_recall_plot
from jaxft.tasks.image_task import example_files, example_names


def class_details(
    dataset: Dataset,
    indices: Sequence[int],
    probabilities: np.ndarray,
    labels: np.ndarray,
    losses: np.ndarray,
) -> Details:
    """Figures by class, the confusion matrix, precision over recall, calibration, and every example.

    Args:
        indices: positions in the dataset of the `N` examples.
        probabilities: `[N, C]`.
        labels: int `[N]`.
        losses: `[N]`.
    """
    classes = dataset.classes
    guesses = probabilities.argmax(-1)
    each = np.arange(len(classes))
    true, said = labels[:, None] == each, guesses[:, None] == each
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, guesses), 1)
    names, files = example_names(dataset), example_files(dataset, indices)
    examples = [
        Example(
            index=index,
            name=names[index],
            truth=classes[label],
            predicted=f"{classes[guess]} {row[guess]:.1%}",
            wrong=float(loss),
            certainty=float(row[guess]),
            cells=((int(label), int(guess)),),
            file=file,
        )
        for index, label, guess, row, loss, file in zip(
            indices, labels, guesses, probabilities, losses, files, strict=True
        )
    ]
    return Details(
        tables=(class_table(classes, probabilities, said, true),),
        plots=(
            precision_recall_plot(classes, probabilities, true),
            calibration_plot(probabilities.max(-1), guesses == labels),
        ),
        confusion=Confusion(truths=classes, predictions=classes, counts=tuple(map(tuple, counts.tolist()))),
        examples=tuple(examples),
    )
