"""How well classes are told."""

import numpy as np

from jaxft.data.dataset import Dataset
from jaxft.errors import UserError
from jaxft.reporting.details import Details
from jaxft.tasks.classification.details import class_details
from jaxft.tasks.task import Prediction


class Accuracy:
    """Mean loss, accuracy, and balanced accuracy: the mean of the accuracies of the classes that
    occur, in which rare ones count as much as others. All but the loss are 0..1."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._indices: list[int] = []
        self._losses: list[float] = []
        self._labels: list[int] = []
        self._probabilities: list[np.ndarray] = []
        self._right: list[bool] = []

    def add(self, index: int, prediction: Prediction) -> None:
        """Takes what `ClassificationTask.predict` says of one example.

        Raises:
            UserError: the model puts out another number of classes than the data have.
        """
        found = prediction["probabilities"].shape
        classes = len(self._dataset.classes)
        if found != (classes,):
            raise UserError(
                f"The model puts out an array of the shape {found} for an image, but the data have {classes} classes."
            )
        self._indices.append(index)
        self._losses.append(float(prediction["loss"]))
        self._labels.append(int(prediction["label"]))
        self._probabilities.append(prediction["probabilities"])
        self._right.append(bool(prediction["probabilities"].argmax() == prediction["label"]))

    def result(self) -> dict[str, float]:
        """The means, each example counted once."""
        right, labels = np.array(self._right), np.array(self._labels)
        each = [right[labels == label].mean() for label in np.unique(labels)]
        return {
            "loss": float(np.mean(self._losses)),
            "accuracy": float(right.mean()),
            "balanced_accuracy": float(np.mean(each)),
        }

    def details(self) -> Details:
        """Figures by class, confusion, calibration, and every example."""
        probabilities = np.stack(self._probabilities)
        labels, losses = np.array(self._labels), np.array(self._losses)
        return class_details(self._dataset, self._indices, probabilities, labels, losses)
