"""A model at work on a dataset: its predictions, example by example, and what a task makes of them."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
from flax import nnx
from jax import Array

from jaxft.activity import Counted, doing, ignored
from jaxft.config import Config
from jaxft.data.dataset import Dataset
from jaxft.data.loader import Passes, eval_batches
from jaxft.models.paths import values
from jaxft.reporting.details import Details
from jaxft.tasks.task import Prediction, Task
from jaxft.training.finished import Trained
from jaxft.training.layout import Layout, device_layout, fetch
from jaxft.training.setup import StoredPrediction
from jaxft.training.step import Compiled, predict_step
from jaxft.training.stopping import raise_if_agreed, raise_if_stopped

Arrays = Mapping[str, Array]
"""A model's parameters and statistics by dotted path."""
Predicting = Callable[[Arrays, Dataset], Iterator[tuple[int, Prediction]]]
"""What predicts a dataset as a `Predictor` does, perhaps with something done to its predictions."""


def validation_dataset(task: Task, config: Config, classes: tuple[str, ...]) -> Dataset | None:
    """What a run of a configuration evaluates on, to evaluate it once more; None where it has no validation split.

    The training split is opened only where a part of it is held out.

    Raises:
        UserError: the data cannot be used, or have other classes.
    """
    data = config.data
    if data.holds_out:
        return task.datasets(data, config.seed)[1]
    return None if data.validation is None else task.dataset(data, data.validation, classes)


class Predictor:
    """Predicts whole datasets with one compiled program for each of their shapes.

    What reads a dataset is kept for the next time, until another one comes or `close`.

    Args:
        template: the model; its arrays do not matter, and it may be abstract.
        batch_size, workers: as of `jaxft.data.loader.eval_batches`.
        precision: see `jaxft.precision`.
        stored: what predicts from stored features, whatever dataset is asked for.
        compiling: as of `Compiled`.
    """

    def __init__(
        self,
        task: Task,
        template: nnx.Module,
        layout: Layout,
        *,
        batch_size: int,
        workers: int = 0,
        precision: str = "float32",
        stored: StoredPrediction | None = None,
        compiling: Callable[[int], AbstractContextManager] = lambda _: nullcontext(),
    ) -> None:
        model = nnx.clone(template)
        model.eval()
        self._layout, self._batch_size, self._workers = layout, batch_size, workers
        step = predict_step(model, task.predict, precision, layout.gathered)
        self._step = Compiled(step if stored is None else stored.function, compiling=compiling)
        self._stored = stored
        self._reading: tuple[Dataset, Passes] | None = None

    def prepare(self, arrays: Arrays, dataset: Dataset) -> None:
        """Begins to compile the programs of a dataset while something else goes on; `arrays` may be abstract."""
        dataset = dataset if self._stored is None else self._stored.examples
        buckets = np.unique(dataset.buckets).tolist()
        self._step.expect(len(buckets))
        for bucket in buckets:
            self._step.prepare(arrays, self._layout.abstract_batch(dataset.padding(bucket), self._batch_size))

    def __call__(self, arrays: Arrays, dataset: Dataset) -> Iterator[tuple[int, Prediction]]:
        """The position of each example and what the model says of it, on every process; in no certain order."""
        passes = self._passes_over(dataset)
        self._step.expect(passes.shapes)
        for batch in passes:
            raise_if_agreed()
            needed = {name: array for name, array in batch.items() if name not in ("mask", "index")}
            part = self._step(arrays, self._layout.batch(needed)) | self._layout.batch({"index": batch["index"]})
            found = {name: fetch(array) for name, array in part.items()}
            for row, index in enumerate(found.pop("index").tolist()):
                if index >= 0:
                    yield index, {name: array[row] for name, array in found.items()}

    def close(self) -> None:
        """Stop what reads, such as worker processes."""
        if self._reading is not None:
            self._reading[1].close()
        self._reading = None

    def _passes_over(self, dataset: Dataset) -> Passes:
        if self._reading is None or self._reading[0] is not dataset:
            self.close()
            passes = eval_batches(
                dataset if self._stored is None else self._stored.examples,
                batch_size=self._batch_size,
                workers=self._workers if self._stored is None else 0,
                positions=self._layout.positions(self._batch_size),
            )
            self._reading = dataset, passes
        return self._reading[1]


class Evaluated(NamedTuple):
    """What an evaluation gives.

    Attributes:
        metrics: by name.
        details: makes what else there is to say.
    """

    metrics: dict[str, float]
    details: Callable[[], Details]


def evaluate(
    predictor: Predicting,
    task: Task,
    arrays: Arrays,
    dataset: Dataset,
    counted: Counted = ignored,
    *,
    write: Callable[[Iterator[tuple[int, Prediction]]], None] | None = None,
    undefined: bool = False,
) -> Evaluated:
    """The metrics of a dataset, each example counted once.

    Args:
        counted: is told how many examples are done, and how many there are.
        write: takes all examples' predictions as they are made, in no certain order.
        undefined: whether figures that the examples do not define, such as the mean average precision where there is
            nothing to find, are there as NaN; otherwise they are left out, the primary one, too. A `loss` is always
            there.

    Raises:
        Interrupted: a signal has asked the run to end, and no other process waits for this one.
    """
    evaluator = task.evaluator(dataset)

    def scored() -> Iterator[tuple[int, Prediction]]:
        for done, (index, prediction) in enumerate(predictor(arrays, dataset), 1):
            counted(done, len(dataset))
            raise_if_stopped()
            evaluator.add(index, prediction)
            yield index, prediction

    if write is None:
        deque(scored(), maxlen=0)
    else:
        write(scored())
    metrics = evaluator.result()
    if not undefined:
        # A loss is always defined: one that is NaN says something of the model.
        metrics = {name: value for name, value in metrics.items() if name == "loss" or not math.isnan(value)}
    return Evaluated(metrics, evaluator.details)


def spread(count: int, most: int) -> list[int]:
    """At most so many positions, evenly spread over a dataset of `count` examples."""
    return np.linspace(0, count - 1, min(most, count)).astype(int).tolist()


def run_predictor(run: Trained, task: Task) -> tuple[Predictor, Arrays]:
    """What predicts with the model of a run, and its arrays."""
    data = run.config.data
    layout = device_layout(data.batch_size, copies=True)
    predictor = Predictor(
        task,
        run.model,
        layout,
        batch_size=data.batch_size,
        workers=data.workers,
        precision=run.config.precision,
        compiling=lambda number: doing(f"compiling the prediction, program {number}"),
    )
    return predictor, placed(run)


def placed(run: Trained) -> Arrays:
    """The arrays of a run's model where `run_predictor` of the same run wants them."""
    layout = device_layout(run.config.data.batch_size, copies=True)
    return layout.place({path: np.asarray(array) for path, array in values(run.model).items()})
