"""A dataset of arrays that a user has in memory, or makes one by one."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from jaxft.data.dataset import Arrays
from jaxft.data.shared import Packed
from jaxft.errors import UserError

Shapes = dict[str, tuple[tuple[int, ...], str]]
"""By the name of an array, its shape and its type."""
Augment = Callable[[Arrays, np.random.Generator], Mapping[str, Any]]
NARROW = {"float64": np.float32, "int64": np.int32, "uint64": np.uint32}  # as JAX holds them
LABEL = "label"
ADDED = ("mask", "index")
"""The names of the arrays that `jaxft.data.loader.eval_batches` adds to a batch."""


class ArrayDataset:
    """Examples that are arrays by name already, each array of one shape in all examples.

    A classifier wants `{"image": [H, W, 3], "label": int}`, images as uint8, which the task normalizes, or as floats,
    which it takes as they are. Numbers of 64 bits become numbers of 32.

    Args:
        examples: a list, or anything with a length whose items can be asked for by position, again and again; all of it
            picklable where `data.workers` is not 0.
        classes: names of the classes, in the order of the labels.
        augment: makes of an example, and of a generator in which all its chance is, what training sees.
    """

    def __init__(
        self, examples: Sequence[Mapping[str, Any]], classes: Sequence[str], augment: Augment | None = None
    ) -> None:
        self.examples, self.augment = examples, augment
        self.classes = tuple(map(str, classes))
        if len(examples) == 0:
            raise UserError("An ArrayDataset wants at least one example; yours has none.")

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_lines"}
        if isinstance(self.examples, list | tuple):  # which worker processes share, packed
            state["examples"] = Packed(_arrays(example, index) for index, example in enumerate(self.examples))
        return state

    @property
    def buckets(self) -> np.ndarray:
        return np.zeros(len(self), np.int32)

    def __len__(self) -> int:
        return len(self.examples)

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        example = self.evaluation(index)
        if self.augment is None:
            return example
        return _of_shapes(_arrays(self.augment(example, rng), index), self._augmented, index, " after `augment`")

    def evaluation(self, index: int) -> Arrays:
        return self._checked_label(_of_shapes(_arrays(self.examples[index], index), self._shapes, index), index)

    def padding(self, bucket: int) -> Arrays:
        return {name: np.zeros(shape, dtype) for name, (shape, dtype) in self._shapes.items()}

    def names(self) -> Sequence[str]:
        return self._lines

    def check(self) -> None:
        """Looks at every example, and at one augmented.

        Raises:
            UserError: one has other arrays, or of another shape or type, than the first; or a label without a class.
        """
        assert len(self._lines) == len(self)
        self.training(0, np.random.default_rng(0))

    def report(self, batch_size: int) -> str:
        arrays = ", ".join(f"{name} {_written(shape)}" for name, shape in self._shapes.items())
        return f"{len(self):,} examples of {len(self.classes)} classes: {arrays}"

    @cached_property
    def _shapes(self) -> Shapes:
        return _shapes_of(_arrays(self.examples[0], 0))

    @cached_property
    def _augmented(self) -> Shapes:
        assert self.augment is not None
        return _shapes_of(_arrays(self.augment(self.evaluation(0), np.random.default_rng(0)), 0))

    @cached_property
    def _lines(self) -> tuple[str, ...]:
        """A line an example: its position, and a word that changes with any of its arrays."""
        return tuple(f"{index}\t{_checksum(self.evaluation(index)):08x}" for index in range(len(self)))

    def _checked_label(self, example: Arrays, index: int) -> Arrays:
        label = np.asarray(example.get(LABEL, 0.0))
        if label.shape == () and np.issubdtype(label.dtype, np.integer) and not 0 <= label < len(self.classes):
            raise UserError(
                f"Example {index} has the label {label}, but there are {len(self.classes)} classes, so that labels are "
                f"0 to {len(self.classes) - 1}."
            )
        return example


def _arrays(example: Any, index: int) -> Arrays:
    """An example as arrays of types that JAX has."""
    if not isinstance(example, Mapping):
        raise UserError(
            f"Example {index} is a {type(example).__name__}; a mapping of names to arrays was expected, such as "
            '{"image": ..., "label": ...}.'
        )
    if taken := [name for name in ADDED if name in example]:
        raise UserError(
            f"Example {index} has an array {taken[0]!r}, which is a name of what the loader adds to a batch; give it "
            "another name."
        )
    return {str(name): _array(value, str(name), index) for name, value in example.items()}


def _array(value: Any, name: str, index: int) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UserError(f"Example {index}: {name} is no array ({error}).") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"Example {index}: {name} is {array.dtype}; an array of numbers was expected.")
    return array.astype(NARROW.get(array.dtype.name, array.dtype), copy=False)


def _shapes_of(example: Arrays) -> Shapes:
    return {name: (tuple(array.shape), str(array.dtype)) for name, array in example.items()}


def _of_shapes(example: Arrays, shapes: Shapes, index: int, when: str = "") -> Arrays:
    found = _shapes_of(example)
    if found == shapes:
        return example
    if found.keys() != shapes.keys():
        raise UserError(f"Example {index} has the arrays {', '.join(found)}{when}, the first has {', '.join(shapes)}.")
    name = next(name for name in shapes if found[name] != shapes[name])
    raise UserError(
        f"Example {index}: {name} is {_written(found[name])}{when}, but {_written(shapes[name])} in the first example; "
        "bring them to one shape and type."
    )


def _written(array: tuple[tuple[int, ...], str]) -> str:
    shape, dtype = array
    return f"{dtype} [{', '.join(map(str, shape))}]"


def _checksum(example: Arrays) -> int:
    found = 0
    for name in sorted(example):
        found = zlib.crc32(np.ascontiguousarray(example[name]).tobytes(), zlib.crc32(name.encode(), found))
    return found
