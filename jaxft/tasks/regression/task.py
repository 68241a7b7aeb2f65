"""Regression: squared, absolute or Huber's loss, R², and predictions in the targets' own units."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from rich.table import Table

from jaxft.config import Data
from jaxft.data.blank import Blank
from jaxft.data.csv_targets import FILE, read_numbers
from jaxft.data.dataset import Dataset, ImageDataset
from jaxft.data.photo import ImageData
from jaxft.data.preprocessing import Preprocessing
from jaxft.data.shapes import generate_discs
from jaxft.data.source import Source
from jaxft.errors import UserError
from jaxft.models.layers import Outputs
from jaxft.reporting.details import Details, Example
from jaxft.reporting.survey import Survey
from jaxft.tasks.distilling import mean_distance, squared_distance
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
from jaxft.tasks.images import check_model
from jaxft.tasks.photos import Photos
from jaxft.tasks.regression import Regression
from jaxft.tasks.regression.details import number_details
from jaxft.tasks.regression.metrics import regression_metrics
from jaxft.tasks.regression.report import describe
from jaxft.tasks.regression.survey import survey, written_numbers
from jaxft.tasks.splits import check_classes, open_splits, open_targets
from jaxft.tasks.task import Fed, Metric, Prediction, Predictions, Program, Taught
from jaxft.tasks.views import Link, Viewed, Viewing

if TYPE_CHECKING:
    from jaxft.reporting.mosaic import Line

LINES = 6  # targets over a photo at most


class RegressionTask:
    """Numbers of an image, uint8 `[N, H, W, 3]`.

    The model puts out standardized numbers, `(target - target_mean) / target_std`, where the fields ask for it; a
    PyTorch state dict of it does so, too. `predict` and `program` give the targets' own units.

    Args:
        fields: the task's part of a configuration.
        dtype: of the images that the model sees, and so of its arithmetic.
    """

    link: Link | None = None
    kept = ""

    def __init__(self, fields: Regression, dtype: str = "float32") -> None:
        self.fields, self.dtype = fields, dtype
        self.primary_metric = Metric(fields.best_by, greater_is_better=fields.best_by == "r2")

    # Data

    def _open(self, data: Data, split: str, classes: tuple[str, ...]) -> Source:
        return open_targets(data, split, classes, "regression", read_numbers, generate_discs)

    def _dataset(self, source: Source, *, flags: bool = False) -> ImageDataset:
        images = self.fields.images
        return ImageDataset(source, images.augment(), images.center_crop(), partial(describe, flags=flags))

    def metric_names(self, classes: tuple[str, ...]) -> Sequence[str]:
        return ("loss", "r2", "mae", "rmse", *(f"{figure}/{name}" for figure in ("r2", "mae") for name in classes))

    def datasets(self, data: Data, seed: int) -> tuple[Dataset, Dataset | None]:
        train, validation = open_splits(data, seed, partial(self._open, data), by_class=False)
        standardized = self.fields.target_mean or self.fields.target_std
        evaluated = None if validation is None else self._dataset(validation)
        return self._dataset(train, flags=not standardized), evaluated

    def dataset(self, data: Data, split: str, classes: tuple[str, ...]) -> Dataset:
        source = self._open(data, split, classes)
        check_classes(source, classes)
        return self._dataset(source)

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
        check_model(model, "regression")
        for name, numbers in (("target_mean", self.fields.target_mean), ("target_std", self.fields.target_std)):
            if len(numbers) not in (0, len(classes)):
                raise UserError(
                    f"task.{name} has {len(numbers)} number(s), but the data have {len(classes)} target(s): "
                    f"{', '.join(classes)}; give one for each, in this order, or none."
                )

    def images(self, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> normalized, in the task's dtype; floats are taken as normalized already."""
        return normalized(pixels, self.fields.images, self.dtype)

    def values(self, model: Any, pixels: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> float32 (or wider) `[N, targets]` in their own units, of a model in evaluation."""
        return self._restored(wide(model(self.images(pixels))))

    def _standardized(self, targets: Array) -> Array:
        mean, std = self._scales(targets)
        return (targets - mean) / std

    def _restored(self, outputs: Array) -> Array:
        mean, std = self._scales(outputs)
        return outputs * std + mean

    def _scales(self, like: Array) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the targets, `[1, targets]`."""
        mean = self.fields.target_mean or (0.0,) * like.shape[-1]
        std = self.fields.target_std or (1.0,) * like.shape[-1]
        return np.array([mean], like.dtype), np.array([std], like.dtype)

    def _losses(self, outputs: Array, targets: Array) -> Array:
        """The mean loss over the targets of each example, `[N]`."""
        check_outputs(outputs, targets)
        errors = outputs - self._standardized(targets.astype(outputs.dtype))
        match self.fields.loss:
            case "mse":
                return jnp.square(errors).mean(-1)
            case "l1":
                return (errors * jnp.sign(errors)).mean(-1)  # of an error of 0, JAX's gradient of abs is 1, PyTorch's 0
            case "huber":
                return optax.huber_loss(errors, delta=self.fields.huber_delta).mean(-1)

    def loss(self, model: Any, batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """The mean loss of standardized numbers of a batch `{image, label}`; metrics `loss` and `mae`.

        Auxiliary heads add theirs with the weight that the model gives them.
        """
        loss, numbers = self._judged(model(self.images(batch["image"])), batch)
        return loss, self._figures(loss, numbers, batch)

    def taught(self, model: Any, teacher: Any, batch: Mapping[str, Array], temperature: Array | None) -> Taught:
        """Standardized numbers are compared by `squared_distance`; auxiliary heads have no teacher."""
        images = self.images(batch["image"])
        loss, numbers = self._judged(model(images), batch)
        response = mean_distance(numbers, wide(teacher(images)), temperature, squared_distance)
        return Taught(loss, self._figures(loss, numbers, batch), response)

    def _judged(self, outputs: Array | Outputs, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """The loss of outputs in training, and the main head's, standardized."""
        return total_loss(outputs, lambda numbers: self._losses(numbers, batch["label"]))

    def _figures(self, loss: Array, numbers: Array, batch: Mapping[str, Array]) -> dict[str, Array]:
        return {"loss": loss, "mae": jnp.abs(self._restored(numbers) - batch["label"]).mean()}

    def predict(self, model: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """For a batch `{image, label}`: `values` `[N, targets]` in their own units, `loss` `[N]`, and the `label`."""
        outputs = wide(model(self.images(batch["image"])))
        return {
            "values": self._restored(outputs),
            "loss": self._losses(outputs, batch["label"]),
            "label": batch["label"],
        }

    def viewed(self, dataset: Dataset, viewing: Viewing) -> Viewed:
        if viewing.several:
            raise UserError(
                "The task is regression, whose targets may depend on direction, place or size: a mirrored, shifted or "
                "enlarged photo may have another one, so that views cannot be averaged; leave --tta out."
            )
        if viewing.temperature != 1:
            raise UserError("The task is regression, which has no logits to divide by a temperature.")
        return Viewed([dataset], lambda _, found: found[0])

    # Results

    def photo(self, dataset: Dataset, index: int) -> np.ndarray:
        return np.asarray(dataset.evaluation(index)["image"])

    def panel(self, dataset: Dataset, example: Example, cell: tuple[int, int]) -> np.ndarray:
        return photo_panel(dataset, example, cell)

    def fed(self, dataset: Dataset, index: int, rng: np.random.Generator) -> Fed:
        return fed_image(dataset, index, rng, lambda label: written_numbers(label, dataset.classes))

    def evaluator(self, dataset: Dataset) -> "Errors":
        return Errors(dataset)

    def _draw(self, dataset: Dataset, predictions: Predictions, file: Path) -> None:
        """Photos with their numbers; and for each target, where it is known, the predicted ones over the true ones."""
        from jaxft.reporting.pictures import scatter

        true, predicted = (np.stack([each[key] for each in predictions.values()]) for key in ("label", "values"))
        known = [] if np.isnan(true).any() else list(enumerate(dataset.classes))[:LINES]
        plots = {f"{name}: predicted over true": scatter(true[:, i], predicted[:, i]) for i, name in known}
        draw_titled(dataset, predictions, lambda prediction: _title(prediction, dataset.classes), file, plots)

    def table(self, dataset: Dataset, predictions: Predictions) -> Table:
        table = Table("photo", *dataset.classes)
        for name, prediction in zip(file_names(dataset, predictions), predictions.values(), strict=True):
            table.add_row(name, *(f"{value:.5g}" for value in prediction["values"]))
        return table

    def entries(self, dataset: Dataset, predictions: Predictions) -> list[dict[str, Any]]:
        entries = []
        for name, prediction in zip(file_names(dataset, predictions), predictions.values(), strict=True):
            numbers = [float(str(value)) for value in prediction["values"]]  # in as few digits as tell float32s apart
            entries.append({"file": name, "values": dict(zip(dataset.classes, numbers, strict=True))})
        return entries

    def write(self, dataset: Dataset, predictions: Iterable[tuple[int, Prediction]], folder: Path) -> None:
        """`predictions.json`, `predictions.png`, and `predictions.csv`, which is of the form of the training data."""
        ordered = dict(sorted(predictions))
        entries = self.entries(dataset, ordered)
        rows = [[entry["file"], *entry["values"].values()] for entry in entries]
        write_entries(entries, (FILE, *dataset.classes), rows, folder)
        self._draw(dataset, ordered, folder / "predictions.png")

    def crop(self, dataset: Dataset, predictions: Predictions, folder: Path, least: float) -> int:
        raise no_crops("regression")

    def program(self, model: Any, pad_shape: tuple[int, int] | None) -> Program:
        """uint8 `[N, crop, crop, 3]`, any N -> float32 `[N, targets]` in their own units; normalization is inside."""
        return image_program(lambda pixels: self.values(model, pixels), self.fields.images, pad_shape)


class Errors:
    """Mean loss, and the figures of `regression_metrics`, in the targets' own units."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._indices: list[int] = []
        self._losses: list[float] = []
        self._values: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def add(self, index: int, prediction: Prediction) -> None:
        """Takes what `RegressionTask.predict` says of one example."""
        self._indices.append(index)
        self._losses.append(float(prediction["loss"]))
        self._values.append(prediction["values"])
        self._labels.append(prediction["label"])

    def result(self) -> dict[str, float]:
        """The figures, each example counted once."""
        metrics = regression_metrics(np.stack(self._values), np.stack(self._labels), self._dataset.classes)
        return {"loss": float(np.mean(self._losses))} | metrics

    def details(self) -> Details:
        """Figures by target, residuals, and every example."""
        values, labels = np.stack(self._values), np.stack(self._labels)
        return number_details(self._dataset, self._indices, values, labels, np.array(self._losses))


def _title(prediction: Prediction, names: Sequence[str]) -> "list[Line]":
    """What to write over a photo: a line a target."""
    from jaxft.reporting.mosaic import Line

    lines = [
        Line(f"{name} {value:.4g}" + ("" if np.isnan(true) else f" (is {true:.4g})"))
        for name, value, true in zip(names, prediction["values"], prediction["label"], strict=True)
    ]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], Line("...")]
