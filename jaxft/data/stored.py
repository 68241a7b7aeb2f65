"""Examples in a fixed number of views, and what was computed of each of them before, mapped into memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.data.dataset import Arrays, Dataset


@dataclass(frozen=True, eq=False)
class Stored:
    """The examples of another dataset, by what was computed of each of their views.

    Attributes:
        original: whose examples they are; no file of it is opened.
        arrays: by name, `[views, examples, ...]`.
    """

    original: Dataset
    arrays: Mapping[str, np.ndarray]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.original.classes

    @property
    def buckets(self) -> np.ndarray:
        return self.original.buckets

    def __len__(self) -> int:
        return len(self.original)

    def view(self, index: int, view: int) -> Arrays:
        """One of the views of an example."""
        return {name: array[view, index] for name, array in self.arrays.items()}

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        return self.view(index, int(rng.integers(len(next(iter(self.arrays.values()))))))

    def evaluation(self, index: int) -> Arrays:
        return self.view(index, 0)

    def padding(self, bucket: int) -> Arrays:
        return {name: np.zeros_like(array[0, 0]) for name, array in self.arrays.items()}

    def names(self) -> Sequence[str]:
        return self.original.names()

    def check(self) -> None:
        self.original.check()

    def report(self, batch_size: int) -> str:
        return self.original.report(batch_size)


@dataclass(frozen=True, eq=False)
class Views:
    """The views of a dataset's examples as training sees them, one dataset after the other; or what evaluation sees."""

    original: Dataset
    count: int = 0
    seed: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        return self.original.classes

    @property
    def buckets(self) -> np.ndarray:
        return np.tile(self.original.buckets, max(self.count, 1))

    def __len__(self) -> int:
        return len(self.original) * max(self.count, 1)

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        return self.evaluation(index)

    def evaluation(self, index: int) -> Arrays:
        view, example = divmod(index, len(self.original))
        if self.count == 0:
            return self.original.evaluation(example)
        return self.original.training(example, view_chance(self.seed, view, example))

    def padding(self, bucket: int) -> Arrays:
        return {name: np.zeros_like(array) for name, array in self.evaluation(0).items()}

    def names(self) -> list[str]:
        return list(self.original.names())

    def check(self) -> None:
        self.original.check()

    def report(self, batch_size: int) -> str:
        return self.original.report(batch_size)


def view_chance(seed: int, view: int, index: int) -> np.random.Generator:
    """All the chance in one view of an example: that of the epoch with the view's number."""
    return np.random.default_rng([seed, view, index])
