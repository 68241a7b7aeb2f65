"""Classification: cross-entropy, accuracy, and probabilities by class."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from rich.table import Table

from jaxft.config import Data
from jaxft.data.dataset import Dataset, ImageDataset
from jaxft.data.preprocessing import Preprocessing
from jaxft.data.transforms import normalize
from jaxft.errors import UserError
from jaxft.models.layers import Outputs
from jaxft.tasks.classification import Classification
from jaxft.tasks.classification.data import open_source, open_splits
from jaxft.tasks.images import check_model
from jaxft.tasks.photos import Photos
from jaxft.tasks.task import Metric, Prediction, Predictions, Program

SHOWN = 60  # photos in a picture at most


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

    def datasets(self, data: Data, seed: int) -> tuple[Dataset, Dataset]:
        train, validation = open_splits(data, seed)
        return self._dataset(train), self._dataset(validation)

    def dataset(self, data: Data, split: str, classes: tuple[str, ...]) -> Dataset:
        source = open_source(data, split)
        if source.classes != classes:
            raise UserError(f"The data have the classes {source.classes}, the run was trained on {classes}.")
        return self._dataset(source)

    def photos(self, files: Sequence[Path], classes: tuple[str, ...]) -> Dataset:
        return self._dataset(Photos(tuple(files), classes, -1))

    # The model

    def preprocessing(self) -> Preprocessing:
        return self.fields.images.preprocessing()

    def check_model(self, model: Any, classes: tuple[str, ...]) -> None:
        check_model(model, "classification")

    def images(self, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> normalized, in the task's dtype; floats are taken as normalized already."""
        floating = jnp.issubdtype(pixels.dtype, jnp.floating)
        images = self.fields.images
        return jnp.asarray(pixels if floating else normalize(pixels, images.mean, images.std), self.dtype)

    def logits(self, model: Any, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> float32 (or wider) `[N, classes]`, of a model in evaluation."""
        return _wide(model(self.images(pixels)))

    def loss(self, model: Any, batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """The mean cross-entropy of a batch `{image, label}`; metrics `loss` and `accuracy` (0..1).

        Auxiliary heads add theirs with the weight that the model gives them.
        """
        outputs, labels = model(self.images(batch["image"])), batch["label"]
        logits, auxiliary, weight = outputs if isinstance(outputs, Outputs) else Outputs(outputs, (), 0.0)
        logits = _wide(logits)
        loss = self._losses(logits, labels).mean()
        for extra in auxiliary:
            loss += weight * self._losses(_wide(extra), labels).mean()
        return loss, {"loss": loss, "accuracy": (logits.argmax(-1) == labels).mean()}

    def _losses(self, logits: Array, labels: Array) -> Array:
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
        from jaxft.reporting import pictures  # matplotlib takes a second to import

        some = dict(list(predictions.items())[:SHOWN])
        images = [np.asarray(dataset.evaluation(index)["image"]) for index in some]
        titles = [_title(prediction, dataset.classes) for prediction in some.values()]
        pictures.titled(images, [title for title, _ in titles], [color for _, color in titles], file)

    def table(self, dataset: Dataset, predictions: Predictions) -> Table:
        table = Table("photo", "class", "probability")
        names = dataset.names()
        for index, prediction in predictions.items():
            probabilities = prediction["probabilities"]
            table.add_row(
                names[index].partition("\t")[0], dataset.classes[probabilities.argmax()], f"{probabilities.max():.3f}"
            )
        return table

    def entries(self, dataset: Dataset, predictions: Predictions) -> list[dict[str, Any]]:
        names = dataset.names()
        return [
            {
                "file": names[index].partition("\t")[0],
                "class": dataset.classes[prediction["probabilities"].argmax()],
                "probabilities": dict(zip(dataset.classes, map(float, prediction["probabilities"]), strict=True)),
            }
            for index, prediction in predictions.items()
        ]

    def write(self, dataset: Dataset, predictions: Predictions, folder: Path) -> None:
        text = json.dumps(self.entries(dataset, predictions), ensure_ascii=False, indent=2)
        (folder / "predictions.json").write_text(text, encoding="utf-8")
        self.draw(dataset, predictions, folder / "predictions.png")

    def program(self, model: Any, pad_shape: tuple[int, int] | None) -> Program:
        """uint8 `[N, crop, crop, 3]`, any N -> float32 logits `[N, classes]`; normalization is inside."""
        if pad_shape is not None:
            raise UserError(
                "A classifier sees one size, task.images.crop; leave out --pad-shape, which is a detector's."
            )
        side = self.fields.images.crop
        (count,) = jax.export.symbolic_shape("n")
        return Program(
            lambda pixels: self.logits(model, pixels), (jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8),)
        )


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


def _title(prediction: Prediction, classes: Sequence[str]) -> tuple[str, str]:
    """What to write over a photo, and in which color: green is right, red is wrong, black has no known label."""
    probabilities, label = prediction["probabilities"], int(prediction["label"])
    guess = int(probabilities.argmax())
    title = f"{classes[guess]} {probabilities[guess]:.0%}"
    if label < 0:
        return title, "black"
    return (title, "green") if guess == label else (f"{title}\n(is {classes[label]})", "red")


def _wide(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
