"""What training and the commands know of a task, and no more."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from jax import Array, ShapeDtypeStruct
    from rich.table import Table

    from jaxft.config import Data
    from jaxft.data.dataset import Dataset
    from jaxft.data.photo import ImageData
    from jaxft.data.preprocessing import Preprocessing
    from jaxft.reporting.details import Details, Example
    from jaxft.reporting.survey import Survey
    from jaxft.tasks.views import Link, Viewed, Viewing

Prediction = Mapping[str, np.ndarray]
"""What a model says of one example: its part of what `Task.predict` returns."""
Predictions = Mapping[int, Prediction]
"""Predictions by the position of the example in its dataset."""


class Metric(NamedTuple):
    """A figure that decides which model is the best."""

    name: str
    greater_is_better: bool = True

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best so far, None where there is none. NaN, which is not defined, is never
        better, and any number is better than NaN."""
        if math.isnan(value) or best is None or math.isnan(best):
            return not math.isnan(value)
        return value > best if self.greater_is_better else value < best


class Evaluator(Protocol):
    """Collects the predictions of a dataset and says how good they are."""

    def add(self, index: int, prediction: Prediction) -> None:
        """Takes the prediction of the example at a position; each comes once, in any order."""

    def result(self) -> dict[str, float]:
        """The metrics of all that was added, the primary one among them; NaN where the examples do not define one."""

    def details(self) -> "Details":
        """What else there is to say of all that was added; after `result`."""


class Taught(NamedTuple):
    """The loss of a training batch, its metrics, and how far the outputs are from a teacher's; see `Task.taught`."""

    loss: "Array"
    metrics: "dict[str, Array]"
    response: "Array"


class Fed(NamedTuple):
    """An example as training sees it.

    Attributes:
        pixels: uint8 `[H, W, 3]`.
        example: what it is, with objects in these pixels.
        later: what happens to it still, which the pixels do not show.
    """

    pixels: np.ndarray
    example: "Example"
    later: str = ""


class Program(NamedTuple):
    """A model's prediction as a function to be exported, and the shapes of its arguments."""

    function: Callable[..., Any]
    arguments: tuple["ShapeDtypeStruct", ...]


class Task(Protocol):
    """Everything that differs between tasks. Built by the fields of a configuration, `config.task.task(dtype)`."""

    @property
    def primary_metric(self) -> Metric: ...

    @property
    def kept(self) -> str:
        """What the names of those metrics begin with that say how much of its teacher's knowledge a model keeps, such
        as `old/`: the teacher is evaluated before the first step. Empty where there are none."""

    def metric_names(self, classes: tuple[str, ...]) -> Sequence[str]:
        """The metrics that an evaluation may give; empty where only an evaluation can tell."""

    def datasets(self, data: "Data", seed: int) -> "tuple[Dataset, Dataset | None]":
        """The training and the validation split, which is None where there is to be none. Files are listed and
        annotations read; photos are not opened.

        Raises:
            UserError: data are missing, or of a kind that the task does not take, or the splits do not fit together.
        """

    def dataset(self, data: "Data", split: str, classes: tuple[str, ...]) -> "Dataset":
        """One split, to evaluate a model of these classes on.

        Raises:
            UserError: it is missing or has other classes.
        """

    def photos(self, files: Sequence[Path], classes: tuple[str, ...]) -> "Dataset":
        """Photos without ground truth, to predict; their headers are read where their shapes matter."""

    def blank(self, data: "Data", classes: tuple[str, ...], count: int) -> "Dataset":
        """Black images in the place of a training split, `count` of each shape in which batches come: for the shapes
        alone, nothing is opened.

        Raises:
            UserError: the shapes depend on the data.
        """

    def stored(self, dataset: "Dataset", index: int) -> "ImageData":
        """The image of an example as it is stored: a file, its encoded bytes, or pixels."""

    def survey(self, dataset: "Dataset") -> "Survey":
        """What a split holds, and what is odd in it. Photos that cannot be used are remarks and no errors."""

    def preprocessing(self) -> "Preprocessing":
        """How a photo becomes what the model sees in evaluation, to be kept beside the weights."""

    def check_model(self, model: Any, classes: tuple[str, ...]) -> None:
        """Raises a UserError where an (abstract) model does not do what the task needs."""

    def loss(self, model: Any, batch: "Mapping[str, Array]") -> "tuple[Array, dict[str, Array]]":
        """The loss of a training batch, and its metrics with `loss` among them. Traced."""

    def taught(self, model: Any, teacher: Any, batch: "Mapping[str, Array]", temperature: "Array | None") -> Taught:
        """`loss`, while a teacher in evaluation is called with what the model sees, and the distance of their outputs.
        Traced; the teacher is not differentiated.

        Args:
            temperature: divides both models' logits; None where the outputs are not compared: then the response is 0.

        Raises:
            UserError: the outputs cannot be compared.
        """

    def predict(self, model: Any, batch: "Mapping[str, Array]") -> "dict[str, Array]":
        """What a model in evaluation says of a batch: arrays whose first axis counts the examples. Traced."""

    @property
    def link(self) -> "Link | None":
        """What makes `probabilities` of the `logits` that `predict` gives, so that a temperature may divide them; None
        where there are none."""

    def viewed(self, dataset: "Dataset", viewing: "Viewing") -> "Viewed":
        """Views of a dataset for test-time augmentation, and what merges their predictions.

        Raises:
            UserError: the task or the dataset does not take such views, or logits are to be divided and there are none.
        """

    def photo(self, dataset: "Dataset", index: int) -> np.ndarray:
        """An example as a person is to see it, uint8 `[H, W, 3]`: what `Example.objects` are measured on, and else what
        evaluation sees.

        Raises:
            UserError: its photo cannot be read.
        """

    def evaluator(self, dataset: "Dataset") -> Evaluator:
        """What turns predictions of a dataset into metrics."""

    def panel(self, dataset: "Dataset", example: "Example", cell: tuple[int, int]) -> np.ndarray:
        """An example of an evaluation as a picture, uint8 `[H, W, 3]`, as large as it can be in a width and a height,
        with what is there and what was found drawn in it.

        Raises:
            UserError: its photo cannot be read.
        """

    def fed(self, dataset: "Dataset", index: int, rng: np.random.Generator) -> "Fed":
        """An example as training sees it, all its chance in `rng`.

        Raises:
            UserError: its photo cannot be read.
        """

    def table(self, dataset: "Dataset", predictions: Predictions) -> "Table":
        """Predictions for a terminal, a line an example."""

    def entries(self, dataset: "Dataset", predictions: Predictions) -> list[dict[str, Any]]:
        """Predictions as plain values, an entry an example; `file` is its name."""

    def write(self, dataset: "Dataset", predictions: Iterable[tuple[int, Prediction]], folder: Path) -> None:
        """Writes predictions, which come in any order, perhaps as they are made, into a folder: JSON, CSV, pictures."""

    def crop(self, dataset: "Dataset", predictions: Predictions, folder: Path, least: float) -> int:
        """Cuts the found objects with at least a score `least` out of their photos, into a folder a class; how many.

        Raises:
            UserError: the task finds no objects.
        """

    def program(self, model: Any, pad_shape: tuple[int, int] | None) -> Program:
        """The prediction of a trained model on uint8 pixels, as it is exported.

        Raises:
            UserError: `pad_shape` is given, and the task has no choice of shapes.
        """
