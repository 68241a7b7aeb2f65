"""How the examples of a split become the rows of batches: what the loader needs to know, and no more."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxft.data.photo import ImageData
from jaxft.data.source import Source
from jaxft.errors import UserError

Row = dict[str, np.ndarray | np.generic]


class Rows(Protocol):
    """A split of examples as rows. It must be picklable, because worker processes get a copy."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""

    @property
    def groups(self) -> np.ndarray:
        """int `[len]`: rows of one group have the same shapes, and a batch is of one group."""

    def __len__(self) -> int: ...

    def train(self, index: int, rng: np.random.Generator) -> Row:
        """A row for training; all its chance is in `rng`."""

    def evaluate(self, index: int) -> Row:
        """A row for evaluation."""

    def blank(self, group: int) -> Row:
        """What fills up the last evaluation batch of a group."""

    def report(self, batch_size: int) -> str:
        """What a person should know of the data before training."""


class Augmentation(Protocol):
    """From an image and chance to uint8 `[H, W, 3]`, the same shape for all images."""

    def __call__(self, image: ImageData, rng: np.random.Generator, /) -> np.ndarray: ...


class FixedTransform(Protocol):
    """From an image to uint8 `[size, size, 3]`, without chance."""

    @property
    def size(self) -> int: ...

    def __call__(self, image: ImageData, /) -> np.ndarray: ...


@dataclass(frozen=True)
class LabelledRows:
    """Images with one class each: `{"image": uint8 [H, W, 3], "label": int32}`.

    When an image cannot be read, a row raises a UserError that names it.
    """

    source: Source
    augment: Augmentation
    fixed: FixedTransform

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def groups(self) -> np.ndarray:
        return np.zeros(len(self.source), np.int32)

    def __len__(self) -> int:
        return len(self.source)

    def train(self, index: int, rng: np.random.Generator) -> Row:
        example = self.source[index]
        with naming(example.name):
            return {"image": self.augment(example.image, rng), "label": np.int32(example.label)}

    def evaluate(self, index: int) -> Row:
        example = self.source[index]
        with naming(example.name):
            return {"image": self.fixed(example.image), "label": np.int32(example.label)}

    def report(self, batch_size: int) -> str:
        return f"{len(self):,} images of {len(self.classes)} classes"

    def blank(self, group: int) -> Row:
        return {"image": np.zeros((self.fixed.size, self.fixed.size, 3), np.uint8), "label": np.int32(0)}


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Says of which example an error within is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"Example {name!r} cannot be used: {error}") from error
