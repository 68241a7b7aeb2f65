"""Classification: cross-entropy, accuracy, and probabilities by class."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from jax import Array
from rich.table import Table

from jaxft.config import Data
from jaxft.data.blank import Blank
from jaxft.data.dataset import Dataset, ImageDataset
from jaxft.data.preprocessing import Preprocessing
from jaxft.data.source import split_holdout
from jaxft.errors import UserError
from jaxft.tasks.classification import Classification
from jaxft.tasks.classification.data import open_source
from jaxft.tasks.image_task import draw_titled, file_names, image_program, normalized, total_loss, wide, write_entries
from jaxft.tasks.images import check_model
from jaxft.tasks.photos import Photos
from jaxft.tasks.splits import check_classes, open_splits
from jaxft.tasks.task import Metric, Prediction, Predictions, Program

if TYPE_CHECKING:
    from jaxft.reporting.pictures import Line


class ClassificationTask:
    """One class an image, uint8 `[N, H, W, 3]`.

    Args:
        fields: the task's part of a configuration.
        dtype: of the images that the model sees, and so of its arithmetic.
    """

    primary_metric = Metric("accuracy")

    def __init__(self, fields: Classification, dtype: str = "float32") -> None:
        self.fields, self.dtype = fields, dtype

    # Data

    def _dataset(self, source: Any) -> ImageDataset:
        return ImageDataset(source, self.fields.images.augment(), self.fields.images.center_crop())

    def metric_names(self, classes: tuple[str, ...]) -> Sequence[str]:
        return ("loss", "accuracy")

    def datasets(self, data: Data, seed: int) -> tuple[Dataset, Dataset | None]:
        train, validation = open_splits(data, seed, lambda split, _: open_source(data, split), split_holdout)
        return self._dataset(train), None if validation is None else self._dataset(validation)

    def dataset(self, data: Data, split: str, classes: tuple[str, ...]) -> Dataset:
        source = open_source(data, split)
        check_classes(source, classes)
        return self._dataset(source)

    def photos(self, files: Sequence[Path], classes: tuple[str, ...]) -> Dataset:
        return self._dataset(Photos(tuple(files), classes, -1))

    def blank(self, data: Data, classes: tuple[str, ...], count: int) -> Dataset:
        return self._dataset(Blank(classes, count, 0))

    # The model

    def preprocessing(self) -> Preprocessing:
        return self.fields.images.preprocessing()

    def check_model(self, model: Any, classes: tuple[str, ...]) -> None:
        check_model(model, "classification")

    def images(self, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> normalized, in the task's dtype; floats are taken as normalized already."""
        return normalized(pixels, self.fields.images, self.dtype)

    def logits(self, model: Any, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> float32 (or wider) `[N, classes]`, of a model in evaluation."""
        return wide(model(self.images(pixels)))

    def loss(self, model: Any, batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """The mean cross-entropy of a batch `{image, label}`; metrics `loss` and `accuracy` (0..1).

        Auxiliary heads add theirs with the weight that the model gives them.
        """
        labels = batch["label"]
        loss, logits = total_loss(model(self.images(batch["image"])), lambda logits: self._losses(logits, labels))
        return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == labels).mean()}

    def _losses(self, logits: Array, labels: Array) -> Array:
        """The cross-entropy of each example, `[N]`.

        Raises:
            UserError: the outputs are not `[N, classes]`, or the labels not `[N]`; others would be broadcast.
        """
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise UserError(
                f"The model puts out an array of the shape {logits.shape} for labels of the shape {labels.shape}, but "
                "a batch of N examples has outputs [N, classes] and labels [N]; a label is one number, of shape []."
            )
        onehot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(onehot, self.fields.label_smoothing))

    def predict(self, model: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """For a batch `{image, label}`: `probabilities` `[N, classes]`, `loss` `[N]`, and `label` as it came."""
        logits = self.logits(model, batch["image"])
        losses = self._losses(logits, batch["label"])
        return {"probabilities": jax.nn.softmax(logits), "loss": losses, "label": batch["label"]}

    # Results

    def evaluator(self, dataset: Dataset) -> "Accuracy":
        return Accuracy(len(dataset.classes))

    def draw(self, dataset: Dataset, predictions: Predictions, file: Path) -> None:
        draw_titled(dataset, predictions, lambda prediction: _title(prediction, dataset.classes), file)

    def table(self, dataset: Dataset, predictions: Predictions) -> Table:
        table = Table("photo", "class", "probability")
        for name, prediction in zip(file_names(dataset, predictions), predictions.values(), strict=True):
            probabilities = prediction["probabilities"]
            table.add_row(name, dataset.classes[probabilities.argmax()], f"{probabilities.max():.3f}")
        return table

    def entries(self, dataset: Dataset, predictions: Predictions) -> list[dict[str, Any]]:
        return [
            {
                "file": name,
                "class": dataset.classes[prediction["probabilities"].argmax()],
                "probabilities": dict(zip(dataset.classes, map(float, prediction["probabilities"]), strict=True)),
            }
            for name, prediction in zip(file_names(dataset, predictions), predictions.values(), strict=True)
        ]

    def write(self, dataset: Dataset, predictions: Iterable[tuple[int, Prediction]], folder: Path) -> None:
        ordered = dict(sorted(predictions))
        write_entries(self.entries(dataset, ordered), folder)
        self.draw(dataset, ordered, folder / "predictions.png")

    def program(self, model: Any, pad_shape: tuple[int, int] | None) -> Program:
        """uint8 `[N, crop, crop, 3]`, any N -> float32 logits `[N, classes]`; normalization is inside."""
        return image_program(lambda pixels: self.logits(model, pixels), self.fields.images, pad_shape)


class Accuracy:
    """Mean loss and accuracy (0..1) over so many classes."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._losses: list[float] = []
        self._right: list[bool] = []

    def add(self, index: int, prediction: Prediction) -> None:
        """Takes what `ClassificationTask.predict` says of one example.

        Raises:
            UserError: the model puts out another number of classes than the data have.
        """
        found = prediction["probabilities"].shape
        if found != (self._classes,):
            raise UserError(
                f"The model puts out an array of the shape {found} for an image, but the data have {self._classes} "
                "classes."
            )
        self._losses.append(float(prediction["loss"]))
        self._right.append(bool(prediction["probabilities"].argmax() == prediction["label"]))

    def result(self) -> dict[str, float]:
        """The means, each example counted once."""
        return {"loss": float(np.mean(self._losses)), "accuracy": float(np.mean(self._right))}


def _title(prediction: Prediction, classes: Sequence[str]) -> "list[Line]":
    """What to write over a photo: green is right, red is wrong, black has no known label."""
    from jaxft.reporting.pictures import Line

    probabilities, label = prediction["probabilities"], int(prediction["label"])
    guess = int(probabilities.argmax())
    said = f"{classes[guess]} {probabilities[guess]:.0%}"
    if label < 0:
        return [Line(said)]
    if guess == label:
        return [Line(said, "green")]
    return [Line(said, "red"), Line(f"(is {classes[label]})", "red")]
