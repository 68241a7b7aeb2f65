"""What a dataset is: the examples of a split as arrays of fixed shapes. What the loader needs to know, and no more."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxft.data.mixing import Mixing
from jaxft.data.photo import ImageData, content_word
from jaxft.data.source import Source
from jaxft.errors import UserError

Arrays = dict[str, np.ndarray | np.generic]


def name_and_truth(line: str) -> tuple[str, str]:
    """An example's name, which may hold tabs, and its ground truth, of its line in `Dataset.names`."""
    name, tab, truth = line.rpartition("\t")
    return (name, truth) if tab else (line, "")


class Dataset(Protocol):
    """A split of examples. It must be picklable, because worker processes get a copy; they share its NumPy arrays, so
    what is long should be one (see `jaxft.data.shared`)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what the model puts out: classes, in the order of the labels, or targets."""

    @property
    def buckets(self) -> np.ndarray:
        """int `[len]`: examples of one bucket have the same shapes, and a batch is of one bucket."""

    def __len__(self) -> int: ...

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        """An example as training sees it; all its chance is in `rng`."""

    def evaluation(self, index: int) -> Arrays:
        """An example as evaluation sees it."""

    def padding(self, bucket: int) -> Arrays:
        """What fills up the last evaluation batch of a bucket."""

    def names(self) -> Sequence[str]:
        """A line an example that tells it apart and says its ground truth, to notice a dataset that has changed."""

    def check(self) -> None:
        """Opens every file, so that a damaged or missing one stops a run before it starts.

        Raises:
            UserError: some cannot be used; they are named.
        """

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


def count_classes(source: Source) -> str:
    """The report of a source of classes."""
    return f"{len(source):,} images of {len(source.classes)} classes"


@dataclass(frozen=True)
class ImageDataset:
    """Images with a label each: `{"image": uint8 [H, W, 3], "label": int32 or float32 [T]}`.

    When an image cannot be read, an example raises a UserError that names it.

    Attributes:
        describe: what a person should know of the source; a function of a module, since worker processes get it, too.
        mixing: adds `"mix": float32 [6]` to a training example.
    """

    source: Source
    augment: Augmentation
    fixed: FixedTransform
    describe: Callable[[Source], str] = count_classes
    mixing: Mixing | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def buckets(self) -> np.ndarray:
        return np.zeros(len(self.source), np.int32)

    def __len__(self) -> int:
        return len(self.source)

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        example = self.source[index]
        with naming(example.name):
            arrays: Arrays = {"image": self.augment(example.image, rng), "label": label_array(example.label)}
            return arrays if self.mixing is None else arrays | {"mix": self.mixing.draw(rng)}

    def evaluation(self, index: int) -> Arrays:
        example = self.source[index]
        with naming(example.name):
            return {"image": self.fixed(example.image), "label": label_array(example.label)}

    def padding(self, bucket: int) -> Arrays:
        image = np.zeros((self.fixed.size, self.fixed.size, 3), np.uint8)
        return {"image": image, "label": np.zeros_like(label_array(self.source[0].label))}

    def names(self) -> Sequence[str]:
        examples = (self.source[index] for index in range(len(self.source)))
        return [f"{example.name}\t{_written(example.label)}" for example in examples]

    def contents(self) -> list[str]:
        """A word an image that changes with it; see `content_word`."""
        return [content_word(self.source[index].image) for index in range(len(self.source))]

    def check(self) -> None:
        self.source.check()

    def report(self, batch_size: int) -> str:
        return self.describe(self.source)


def label_array(label: int | np.ndarray) -> np.ndarray:
    """A class as int32 `[]`, targets as float32 `[T]`."""
    return np.asarray(label, np.float32 if isinstance(label, np.ndarray) else np.int32)


def _written(label: int | np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in label) if isinstance(label, np.ndarray) else str(label)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Says of which example an error within is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"Example {name!r} cannot be used: {error}") from error
