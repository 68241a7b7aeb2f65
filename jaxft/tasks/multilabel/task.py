"""Multi-label classification: binary cross-entropy of each label, mean average precision, F1."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.table import Table

from jaxft.config import Data
from jaxft.data.blank import Blank
from jaxft.data.csv_targets import read_labels
from jaxft.data.dataset import Dataset, ImageDataset
from jaxft.data.photo import ImageData
from jaxft.data.preprocessing import Preprocessing
from jaxft.data.shapes import generate_shapes
from jaxft.data.source import Source
from jaxft.errors import UserError
from jaxft.models.layers import Outputs
from jaxft.reporting.details import Details, Example
from jaxft.reporting.survey import Survey
from jaxft.tasks.distilling import mean_distance, sigmoid_distance
from jaxft.tasks.image_task import (
    check_outputs,
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
from jaxft.tasks.image_views import image_views, log_mean, log_sigmoid
from jaxft.tasks.images import check_model
from jaxft.tasks.multilabel import Multilabel
from jaxft.tasks.multilabel.details import label_details
from jaxft.tasks.multilabel.metrics import multilabel_metrics
from jaxft.tasks.multilabel.report import describe
from jaxft.tasks.multilabel.survey import survey, written_labels
from jaxft.tasks.photos import Photos
from jaxft.tasks.splits import check_classes, open_splits, open_targets
from jaxft.tasks.task import Fed, Metric, Prediction, Predictions, Program, Taught
from jaxft.tasks.views import Link, Viewed, Viewing

if TYPE_CHECKING:
    from jaxft.reporting.mosaic import Line

LINES = 6  # labels over a photo at most


class MultilabelTask:
    """Labels of which an image, uint8 `[N, H, W, 3]`, may have none, one or several.

    Args:
        fields: the task's part of a configuration.
        dtype: of the images that the model sees, and so of its arithmetic.
    """

    primary_metric = Metric("mAP")
    link: Link | None = "sigmoid"
    kept = ""

    def __init__(self, fields: Multilabel, dtype: str = "float32") -> None:
        self.fields, self.dtype = fields, dtype

    # Data

    def _open(self, data: Data, split: str, classes: tuple[str, ...]) -> Source:
        return open_targets(data, split, classes, "multi-label classification", read_labels, generate_shapes)

    def _dataset(self, source: Source) -> ImageDataset:
        images = self.fields.images
        return ImageDataset(source, images.augment(), images.center_crop(), describe)

    def _labeled(self, source: Source, split: str) -> ImageDataset:
        """A dataset to learn from or to be judged by.

        Raises:
            UserError: none of its images has a label.
        """
        if not any(np.any(source[index].label) for index in range(len(source))):
            raise UserError(
                f"None of the {len(source)} images of the split {split!r} has one of the labels "
                f"{', '.join(source.classes)}; check its file, or hold another part out by --seed."
            )
        return self._dataset(source)

    def metric_names(self, classes: tuple[str, ...]) -> Sequence[str]:
        return ("loss", "mAP", "f1", *(f"{figure}/{name}" for figure in ("AP", "f1") for name in classes))

    def datasets(self, data: Data, seed: int) -> tuple[Dataset, Dataset | None]:
        train, validation = open_splits(data, seed, partial(self._open, data), by_class=False)
        trained = self._labeled(train, data.train)
        return trained, None if validation is None else self._labeled(validation, data.validation or data.train)

    def dataset(self, data: Data, split: str, classes: tuple[str, ...]) -> Dataset:
        source = self._open(data, split, classes)
        check_classes(source, classes)
        return self._labeled(source, split)

    def photos(self, files: Sequence[Path], classes: tuple[str, ...]) -> Dataset:
        return self._dataset(Photos(tuple(files), classes, np.full(len(classes), np.nan, np.float32)))

    def blank(self, data: Data, classes: tuple[str, ...], count: int) -> Dataset:
        return self._dataset(Blank(classes, count, np.zeros(len(classes), np.float32)))

    def stored(self, dataset: Dataset, index: int) -> ImageData:
        return stored_image(dataset, index)

    def survey(self, dataset: Dataset) -> Survey:
        return survey(source_of(dataset), self.fields.images.crop)

    # The model

    def preprocessing(self) -> Preprocessing:
        return self.fields.images.preprocessing()

    def check_model(self, model: Any, classes: tuple[str, ...]) -> None:
        check_model(model, "multi-label classification")
        if len(self.fields.positive_weight) not in (0, len(classes)):
            raise UserError(
                f"task.positive_weight has {len(self.fields.positive_weight)} number(s), but the data have "
                f"{len(classes)} label(s): {', '.join(classes)}; give one for each, in this order, or none."
            )

    def images(self, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> normalized, in the task's dtype; floats are taken as normalized already."""
        return normalized(pixels, self.fields.images, self.dtype)

    def logits(self, model: Any, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> float32 (or wider) `[N, labels]`, of a model in evaluation."""
        return wide(model(self.images(pixels)))

    def _losses(self, logits: Array, labels: Array) -> Array:
        """The mean binary cross-entropy over the labels of each example, `[N]`; finite for any finite logits."""
        check_outputs(logits, labels)
        weight = jnp.array([self.fields.positive_weight or (1.0,) * logits.shape[-1]], logits.dtype)
        labels = labels.astype(logits.dtype)
        has, has_not = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return -(weight * labels * has + (1 - labels) * has_not).mean(-1)

    def _training_losses(self, logits: Array, labels: Array) -> Array:
        """What each example adds to the mean of a batch, `[N]`: `_losses`, or where the fields say so the asymmetric
        loss of https://arxiv.org/abs/2009.14119, equations 4 to 7."""
        fields = self.fields
        if not (fields.focal_positive or fields.focal_negative or fields.margin):
            return self._losses(logits, labels)
        check_outputs(logits, labels)
        weight = jnp.array([fields.positive_weight or (1.0,) * logits.shape[-1]], logits.dtype)
        tiny = jnp.finfo(logits.dtype).tiny  # where a power has no derivative at 0
        probability = jax.nn.sigmoid(logits)
        shifted = jnp.maximum(probability - fields.margin, 0)
        without = jax.nn.log_sigmoid(-logits) if fields.margin == 0 else jnp.log1p(-shifted)
        has = jnp.maximum(1 - probability, tiny) ** fields.focal_positive * jax.nn.log_sigmoid(logits)
        has_not = jnp.maximum(shifted, tiny) ** fields.focal_negative * without
        labels = labels.astype(logits.dtype)
        return -(weight * labels * has + (1 - labels) * has_not).mean(-1)

    def loss(self, model: Any, batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """The mean binary cross-entropy of a batch `{image, label}`, or the asymmetric loss; metric `loss`.

        Auxiliary heads add theirs with the weight that the model gives them.
        """
        loss, _ = self._judged(model(self.images(batch["image"])), batch)
        return loss, {"loss": loss}

    def taught(self, model: Any, teacher: Any, batch: Mapping[str, Array], temperature: Array | None) -> Taught:
        """Logits are compared by `sigmoid_distance`; auxiliary heads have no teacher."""
        images = self.images(batch["image"])
        loss, logits = self._judged(model(images), batch)
        response = mean_distance(logits, wide(teacher(images)), temperature, sigmoid_distance)
        return Taught(loss, {"loss": loss}, response)

    def _judged(self, outputs: Array | Outputs, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """The loss of outputs in training, and the main head's logits."""
        return total_loss(outputs, lambda logits: self._training_losses(logits, batch["label"]))

    def predict(self, model: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """For a batch `{image, label}`: `logits`, `probabilities` `[N, labels]`, `loss` `[N]`, `label` as it came."""
        logits, labels = self.logits(model, batch["image"]), batch["label"]
        losses = self._losses(logits, labels)
        return {"logits": logits, "probabilities": jax.nn.sigmoid(logits), "loss": losses, "label": labels}

    def viewed(self, dataset: Dataset, viewing: Viewing) -> Viewed:
        return Viewed(image_views(dataset, viewing), lambda _, found: self._merged(found, viewing.temperature))

    def _merged(self, views: Sequence[Prediction], temperature: float) -> Prediction:
        """The mean of the probabilities of all views, as a prediction of one; on the host, in float64."""
        has, has_not = (
            log_mean([log_sigmoid(sign * view["logits"] / temperature) for view in views]) for sign in (1, -1)
        )
        labels, weight = views[0]["label"], np.array(self.fields.positive_weight or 1.0)
        return {
            "logits": (has - has_not).astype(np.float32),
            "probabilities": np.exp(has).astype(np.float32),
            "loss": np.asarray(-(weight * labels * has + (1 - labels) * has_not).mean(), np.float32),
            "label": labels,
        }

    # Results

    def photo(self, dataset: Dataset, index: int) -> np.ndarray:
        return np.asarray(dataset.evaluation(index)["image"])

    def panel(self, dataset: Dataset, example: Example, cell: tuple[int, int]) -> np.ndarray:
        return photo_panel(dataset, example, cell)

    def fed(self, dataset: Dataset, index: int, rng: np.random.Generator) -> Fed:
        return fed_image(dataset, index, rng, lambda label: written_labels(label, dataset.classes))

    def evaluator(self, dataset: Dataset) -> "Labels":
        return Labels(dataset, self.fields.threshold)

    def _draw(self, dataset: Dataset, predictions: Predictions, file: Path) -> None:
        threshold = self.fields.threshold
        draw_titled(dataset, predictions, lambda prediction: _title(prediction, dataset.classes, threshold), file)

    def _said(self, prediction: Prediction, names: Sequence[str]) -> dict[str, float]:
        """The labels above the threshold with their probabilities, best first."""
        found = dict(zip(names, map(float, prediction["probabilities"]), strict=True))
        kept = {name: value for name, value in found.items() if value >= self.fields.threshold}
        return dict(sorted(kept.items(), key=lambda item: -item[1]))

    def table(self, dataset: Dataset, predictions: Predictions) -> Table:
        table = Table("photo", f"labels with a probability of at least {self.fields.threshold:g}")
        for name, prediction in zip(file_names(dataset, predictions), predictions.values(), strict=True):
            said = self._said(prediction, dataset.classes)
            table.add_row(name, ", ".join(f"{label} {value:.3f}" for label, value in said.items()) or "none")
        return table

    def entries(self, dataset: Dataset, predictions: Predictions) -> list[dict[str, Any]]:
        return [
            {
                "file": name,
                "labels": list(self._said(prediction, dataset.classes)),
                "probabilities": dict(zip(dataset.classes, map(float, prediction["probabilities"]), strict=True)),
            }
            for name, prediction in zip(file_names(dataset, predictions), predictions.values(), strict=True)
        ]

    def write(self, dataset: Dataset, predictions: Iterable[tuple[int, Prediction]], folder: Path) -> None:
        ordered = dict(sorted(predictions))
        entries = self.entries(dataset, ordered)
        rows = [(entry["file"], ";".join(entry["labels"]), *entry["probabilities"].values()) for entry in entries]
        columns = ("file", "labels", *(f"probability/{name}" for name in dataset.classes))
        write_entries(entries, columns, rows, folder)
        self._draw(dataset, ordered, folder / "predictions.png")

    def crop(self, dataset: Dataset, predictions: Predictions, folder: Path, least: float) -> int:
        raise no_crops("multi-label classification")

    def program(self, model: Any, pad_shape: tuple[int, int] | None) -> Program:
        """uint8 `[N, crop, crop, 3]`, any N -> float32 logits `[N, labels]`, whose sigmoid is the probabilities;
        normalization is inside."""
        return image_program(lambda pixels: self.logits(model, pixels), self.fields.images, pad_shape)


class Labels:
    """Mean loss, and the figures of `multilabel_metrics`."""

    def __init__(self, dataset: Dataset, threshold: float) -> None:
        self._dataset, self._threshold = dataset, threshold
        self._indices: list[int] = []
        self._losses: list[float] = []
        self._probabilities: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def add(self, index: int, prediction: Prediction) -> None:
        """Takes what `MultilabelTask.predict` says of one example."""
        self._indices.append(index)
        self._losses.append(float(prediction["loss"]))
        self._probabilities.append(prediction["probabilities"])
        self._labels.append(prediction["label"])

    def result(self) -> dict[str, float]:
        """The figures, each example counted once."""
        probabilities, labels = np.stack(self._probabilities), np.stack(self._labels)
        metrics = multilabel_metrics(probabilities, labels, self._dataset.classes, self._threshold)
        return {"loss": float(np.mean(self._losses))} | metrics

    def details(self) -> Details:
        """Figures by label, calibration, and every example."""
        probabilities, labels, losses = np.stack(self._probabilities), np.stack(self._labels), np.array(self._losses)
        return label_details(self._dataset, self._indices, probabilities, labels, losses, self._threshold)


def _title(prediction: Prediction, names: Sequence[str], threshold: float) -> "list[Line]":
    """What to write over a photo: a line a label that it has or is said to have, the likeliest first.

    Green is right, red is wrong or missed, black has no known labels.
    """
    from jaxft.reporting.mosaic import Line

    lines = []
    probabilities, labels = prediction["probabilities"], prediction["label"]
    for index in np.argsort(-probabilities, kind="stable"):
        said, true = bool(probabilities[index] >= threshold), bool(labels[index] > 0)
        text = f"{names[index]} {probabilities[index]:.0%}"
        if np.isnan(labels[index]) and said:
            lines.append(Line(text))
        elif said:
            lines.append(Line(text, "green" if true else "red"))
        elif true:
            lines.append(Line(f"missed: {text}", "red"))
    if not lines:
        return [Line("none", "black" if np.isnan(labels).any() else "green")]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], Line("...")]
