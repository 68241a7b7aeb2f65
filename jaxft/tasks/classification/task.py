"""Classification: cross-entropy, accuracy, and probabilities by class."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from rich.table import Table

from jaxft.config import Data
from jaxft.data.blank import Blank
from jaxft.data.dataset import Dataset, ImageDataset
from jaxft.data.mixing import Mixing
from jaxft.data.photo import ImageData
from jaxft.data.preprocessing import Preprocessing
from jaxft.data.source import balanced_weights
from jaxft.errors import UserError
from jaxft.models.layers import Outputs
from jaxft.reporting.details import Example
from jaxft.reporting.survey import Survey
from jaxft.tasks.classification import Classification
from jaxft.tasks.classification.accuracy import Accuracy
from jaxft.tasks.classification.data import open_source
from jaxft.tasks.classification.survey import survey
from jaxft.tasks.distilling import mean_distance, softmax_distance
from jaxft.tasks.image_task import (
    draw_titled,
    fed_image,
    file_names,
    image_program,
    no_crops,
    normalized,
    photo_panel,
    source_of,
    stored_image,
    total_loss,
    wide,
    write_entries,
)
from jaxft.tasks.image_views import image_views, log_mean, log_softmax
from jaxft.tasks.images import check_model
from jaxft.tasks.mixing import mixed_images, mixed_targets
from jaxft.tasks.photos import Photos
from jaxft.tasks.splits import check_classes, open_splits
from jaxft.tasks.task import Fed, Metric, Prediction, Predictions, Program, Taught
from jaxft.tasks.views import Link, Viewed, Viewing

if TYPE_CHECKING:
    from jaxft.reporting.mosaic import Line


class ClassificationTask:
    """One class an image, uint8 `[N, H, W, 3]`.

    Args:
        fields: the task's part of a configuration.
        dtype: of the images that the model sees, and so of its arithmetic.
    """

    primary_metric = Metric("accuracy")
    link: Link | None = "softmax"
    kept = ""

    def __init__(self, fields: Classification, dtype: str = "float32") -> None:
        self.fields, self.dtype = fields, dtype
        self.class_weights: tuple[float, ...] = () if fields.class_weights == "balanced" else fields.class_weights

    # Data

    def _dataset(self, source: Any) -> ImageDataset:
        fields = self.fields
        mixing = Mixing(fields.mixup, fields.cutmix, fields.images.crop) if fields.mixup or fields.cutmix else None
        return ImageDataset(source, fields.images.augment(), fields.images.center_crop(), mixing=mixing)

    def metric_names(self, classes: tuple[str, ...]) -> Sequence[str]:
        return ("loss", "accuracy", "balanced_accuracy")

    def datasets(self, data: Data, seed: int) -> tuple[Dataset, Dataset | None]:
        train, validation = open_splits(data, seed, lambda split, _: open_source(data, split), by_class=True)
        if self.fields.class_weights == "balanced":
            self.class_weights = balanced_weights(train)
        return self._dataset(train), None if validation is None else self._dataset(validation)

    def dataset(self, data: Data, split: str, classes: tuple[str, ...]) -> Dataset:
        source = open_source(data, split)
        check_classes(source, classes)
        return self._dataset(source)

    def photos(self, files: Sequence[Path], classes: tuple[str, ...]) -> Dataset:
        return self._dataset(Photos(tuple(files), classes, -1))

    def blank(self, data: Data, classes: tuple[str, ...], count: int) -> Dataset:
        if self.fields.class_weights == "balanced":
            self.class_weights = (1.0,) * len(classes)
        return self._dataset(Blank(classes, count, 0))

    def stored(self, dataset: Dataset, index: int) -> ImageData:
        return stored_image(dataset, index)

    def survey(self, dataset: Dataset) -> Survey:
        return survey(source_of(dataset), self.fields.images.crop)

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

        With `mix` `[N, 6]` images and targets are mixed first, and the accuracy is that of the images' own labels.
        Auxiliary heads add their loss with the weight that the model gives them.
        """
        loss, logits = self._judged(model(self._seen(batch)), batch)
        return loss, self._metrics(loss, logits, batch)

    def taught(self, model: Any, teacher: Any, batch: Mapping[str, Array], temperature: Array | None) -> Taught:
        """Logits are compared by `softmax_distance`, those of mixed images, too; auxiliary heads have no teacher."""
        images = self._seen(batch)
        loss, logits = self._judged(model(images), batch)
        response = mean_distance(logits, wide(teacher(images)), temperature, softmax_distance)
        return Taught(loss, self._metrics(loss, logits, batch), response)

    def _seen(self, batch: Mapping[str, Array]) -> Array:
        """The images that the model sees in training."""
        images, mix = self.images(batch["image"]), batch.get("mix")
        self._check_mixture(mix, len(images))
        return images if mix is None else mixed_images(images, mix)

    def _judged(self, outputs: Array | Outputs, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """The loss of outputs in training, and the main head's logits."""
        return total_loss(outputs, partial(self._training_losses, labels=batch["label"], mix=batch.get("mix")))

    def _metrics(self, loss: Array, logits: Array, batch: Mapping[str, Array]) -> dict[str, Array]:
        return {"loss": loss, "accuracy": (logits.argmax(-1) == batch["label"]).mean()}

    def _check_mixture(self, mix: Array | None, examples: int) -> None:
        """Raises a UserError where nothing would be mixed that is to be mixed."""
        if not (self.fields.mixup or self.fields.cutmix):
            return
        if mix is None:
            raise UserError(
                "task.mixup and task.cutmix mix the examples of the configured data; with datasets of your own let "
                'each example have an array "mix" as jaxft.data.mixing.Mixing draws it, or set both to 0.'
            )
        if examples < 2:
            raise UserError(
                "task.mixup and task.cutmix mix the examples of a batch, or of a part of it, with each other, but "
                "there is only one; raise --data.batch-size or lower --optimizer.accumulate."
            )

    def _training_losses(self, logits: Array, labels: Array, mix: Array | None) -> Array:
        """What each example adds to the mean of a batch, `[N]`: weighted as PyTorch's CrossEntropyLoss does it."""
        targets = self._targets(logits, labels)
        if mix is not None:
            targets = mixed_targets(targets, mix)
        weights = self._weights(logits)
        losses = cross_entropy(logits, targets, weights, self.fields.focal)
        if mix is not None or not self.fields.class_weights:
            return losses
        whole = weights[labels].sum()
        return losses * jnp.where(whole > 0, len(labels) / jnp.where(whole > 0, whole, 1), 0)

    def _weights(self, logits: Array) -> Array:
        """Of the classes, `[classes]`.

        Raises:
            UserError: there are more or fewer weights than classes, or they are to come from data that nobody counts.
        """
        weights = self.class_weights
        if self.fields.class_weights == "balanced" and not weights:
            raise UserError(
                "task.class_weights is balanced, which counts the examples of the configured data; with datasets of "
                "your own give a number for each class."
            )
        if weights and len(weights) != logits.shape[-1]:
            raise UserError(
                f"task.class_weights has {len(weights)} weight(s), but there are {logits.shape[-1]} classes; give one "
                "for each, in their order, or balanced."
            )
        return jnp.asarray(weights or np.ones(logits.shape[-1]), logits.dtype)

    def _targets(self, logits: Array, labels: Array) -> Array:
        """The probabilities that are to be learnt, `[N, classes]`.

        Raises:
            UserError: the outputs are not `[N, classes]`, or the labels not `[N]`; others would be broadcast.
        """
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise UserError(
                f"The model puts out an array of the shape {logits.shape} for labels of the shape {labels.shape}, but "
                "a batch of N examples has outputs [N, classes] and labels [N]; a label is one number, of shape []."
            )
        onehot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        return optax.smooth_labels(onehot, self.fields.label_smoothing)

    def _losses(self, logits: Array, labels: Array) -> Array:
        """The cross-entropy of each example, `[N]`, that evaluation reports: no class counts more there."""
        return optax.softmax_cross_entropy(logits, self._targets(logits, labels))

    def predict(self, model: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """For a batch `{image, label}`: `logits`, `probabilities` `[N, classes]`, `loss` `[N]`, `label` as it came."""
        logits = self.logits(model, batch["image"])
        losses = self._losses(logits, batch["label"])
        return {
            "logits": logits,
            "probabilities": jax.nn.softmax(logits),
            "loss": losses,
            "label": batch["label"],
        }

    def viewed(self, dataset: Dataset, viewing: Viewing) -> Viewed:
        return Viewed(image_views(dataset, viewing), lambda _, found: self._merged(found, viewing.temperature))

    def _merged(self, views: Sequence[Prediction], temperature: float) -> Prediction:
        """The mean of the probabilities of all views, as a prediction of one; on the host, in float64."""
        logs = log_mean([log_softmax(view["logits"] / temperature) for view in views])
        label, smoothing = views[0]["label"], self.fields.label_smoothing
        targets = (1 - smoothing) * (np.arange(len(logs)) == label) + smoothing / len(logs)
        return {
            "logits": logs.astype(np.float32),
            "probabilities": np.exp(logs).astype(np.float32),
            "loss": np.asarray(-(targets * logs).sum(), np.float32),
            "label": label,
        }

    # Results

    def photo(self, dataset: Dataset, index: int) -> np.ndarray:
        return np.asarray(dataset.evaluation(index)["image"])

    def panel(self, dataset: Dataset, example: Example, cell: tuple[int, int]) -> np.ndarray:
        return photo_panel(dataset, example, cell)

    def fed(self, dataset: Dataset, index: int, rng: np.random.Generator) -> Fed:
        fed, fields = fed_image(dataset, index, rng, lambda label: dataset.classes[int(label)]), self.fields
        return fed._replace(later="images are mixed with each other" if fields.mixup or fields.cutmix else "")

    def evaluator(self, dataset: Dataset) -> Accuracy:
        return Accuracy(dataset)

    def _draw(self, dataset: Dataset, predictions: Predictions, file: Path) -> None:
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
        entries = self.entries(dataset, ordered)
        rows = [
            (entry["file"], entry["class"], entry["probabilities"][entry["class"]], *entry["probabilities"].values())
            for entry in entries
        ]
        columns = ("file", "class", "probability", *(f"probability/{name}" for name in dataset.classes))
        write_entries(entries, columns, rows, folder)
        self._draw(dataset, ordered, folder / "predictions.png")

    def crop(self, dataset: Dataset, predictions: Predictions, folder: Path, least: float) -> int:
        raise no_crops("classification")

    def program(self, model: Any, pad_shape: tuple[int, int] | None) -> Program:
        """uint8 `[N, crop, crop, 3]`, any N -> float32 logits `[N, classes]`; normalization is inside."""
        return image_program(lambda pixels: self.logits(model, pixels), self.fields.images, pad_shape)


def cross_entropy(logits: Array, targets: Array, weights: Array, gamma: float = 0.0) -> Array:
    """The cross-entropy of each example `[N]` with targets `[N, C]`, by class weighted and made focal.

    It is the sum over classes c of -weights[c] * targets[c] * (1 - p[c]) ** gamma * log p[c], whose factor with gamma
    is that of https://arxiv.org/abs/1708.02002, equation 4, for several classes.
    """
    logs = jax.nn.log_softmax(logits)
    focus = 1.0 if gamma == 0 else jnp.maximum(-jnp.expm1(logs), jnp.finfo(logs.dtype).tiny) ** gamma
    return -(weights[None] * targets * focus * logs).sum(-1)


def _title(prediction: Prediction, classes: Sequence[str]) -> "list[Line]":
    """What to write over a photo: green is right, red is wrong, black has no known label."""
    from jaxft.reporting.mosaic import Line

    probabilities, label = prediction["probabilities"], int(prediction["label"])
    guess = int(probabilities.argmax())
    said = f"{classes[guess]} {probabilities[guess]:.0%}"
    if label < 0:
        return [Line(said)]
    if guess == label:
        return [Line(said, "green")]
    return [Line(said, "red"), Line(f"(is {classes[label]})", "red")]
