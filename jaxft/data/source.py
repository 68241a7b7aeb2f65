"""What a source of labelled images is, and how to hold a part of one out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxft.data.photo import ImageData
from jaxft.errors import UserError


class Example(NamedTuple):
    """One labelled image, not decoded yet.

    Attributes:
        image: a file, its encoded bytes, or pixels as uint8 `[H, W, 3]`.
        label: position of the class in the source's `classes`; or targets, float `[T]`, in the order of its `classes`.
        name: what to call the example in messages and reports.
    """

    image: ImageData
    label: int | np.ndarray
    name: str


class Source(Protocol):
    """A finite, indexable set of examples. It must be picklable, as a `jaxft.data.dataset.Dataset` must."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels; or of the targets."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def check(self) -> None:
        """Opens every file; raises a UserError that names what cannot be used."""


@dataclass(frozen=True)
class Subset:
    """The examples of `source` at `indices`, in that order."""

    source: Source
    indices: Sequence[int]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"indices": np.asarray(self.indices, np.int64)}  # which worker processes share

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def check(self) -> None:
        self.source.check()


def class_counts(source: Source) -> np.ndarray:
    """How many examples each class has, int `[classes]`; the labels of all are read.

    Raises:
        UserError: a class has none.
    """
    labels = np.array([source[index].label for index in range(len(source))])
    counts = np.bincount(labels, minlength=len(source.classes))
    if empty := [name for name, count in zip(source.classes, counts, strict=True) if not count]:
        raise UserError(f"The class {empty[0]!r} has no training example, so that it cannot be balanced; add some.")
    return counts


def balanced_weights(source: Source) -> tuple[float, ...]:
    """The mean number of examples of a class over the number of each."""
    counts = class_counts(source)
    return tuple((counts.mean() / counts).tolist())


def split_holdout(source: Source, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Split `source` in two, every class in proportion, so that settings can be chosen without the test images.

    Args:
        source: what to split; the labels of all its examples are read.
        fraction: share of each class that is held out, in (0, 1); rounded, but at least one example on either side.
        seed: non-negative; equal seeds give equal splits.

    Returns:
        `(train, held_out)`, disjoint, together the whole source, each in the source's order.

    Raises:
        UserError: the fraction is out of range, or a class has fewer than two examples.
    """
    _check_fraction(fraction)
    labels = np.array([source[index].label for index in range(len(source))])
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label, name in enumerate(source.classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise UserError(
                f"Class {name!r} has {len(members)} example(s), but to hold a part out every class needs at least 2; "
                "add images or train without a hold-out."
            )
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held_out[rng.permutation(members)[:count]] = True
    return _cut(source, held_out)


def split_at_random(source: Source, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Split `source` in two at random: `split_holdout` for targets, which have no classes to keep in proportion.

    Raises:
        UserError: the fraction is out of range, or there are fewer than two examples.
    """
    _check_fraction(fraction)
    if len(source) < 2:
        raise UserError(f"There is {len(source)} example, but to hold a part out at least 2 are needed; add images.")
    return _cut(source, random_part(len(source), fraction, seed))


def random_part(count: int, fraction: float, seed: int) -> np.ndarray:
    """bool `[count]`: a random part to hold out, rounded, but at least one on either side."""
    size = min(max(round(fraction * count), 1), count - 1)
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(seed).permutation(count)[:size]] = True
    return chosen


def split_fold(source: Source, folds: int, fold: int, seed: int, *, by_class: bool) -> tuple[Subset, Subset]:
    """All but one part of `source`, and that part, of so many equal ones; all folds together are the whole source.

    Args:
        by_class: keep every class in proportion.

    Raises:
        UserError: a class, or the whole, has fewer examples than there are parts.
    """
    held_out, before = np.zeros(len(source), bool), 0
    for name, members in _groups(source, by_class):
        if len(members) < folds:
            raise UserError(f"{name} has {len(members)} example(s), too few for {folds} folds; lower --data.folds.")
        # What is left over of a class goes to the folds after those that got what was left of the one before.
        held_out[members[random_fold(len(members), folds, (fold - before) % folds, seed)]] = True
        before += len(members)
    return _cut(source, held_out)


def nested_subset(source: Source, share: float, seed: int, *, by_class: bool) -> Subset:
    """A share of `source`, rounded up, in its order; a smaller share is a part of a larger one.

    Args:
        by_class: keep every class in proportion.
    """
    chosen = np.zeros(len(source), bool)
    for _, members in _groups(source, by_class):
        chosen[members[random_share(len(members), share, seed)]] = True
    return Subset(source, np.flatnonzero(chosen).tolist())


def oversampled(source: Source) -> Subset:
    """`source`, and the examples of rarer classes once more, and again, until each class has as many as the largest.

    Raises:
        UserError: a class has none.
    """
    most = int(class_counts(source).max())
    more = [np.resize(members, most)[len(members) :] for _, members in _groups(source, True)]
    return Subset(source, np.concatenate([np.arange(len(source)), *more]).tolist())


def _groups(source: Source, by_class: bool) -> list[tuple[str, np.ndarray]]:
    """The examples of each class by what it is called; or all."""
    if not by_class:
        return [("The training split", np.arange(len(source)))]
    labels = np.array([source[index].label for index in range(len(source))])
    return [(f"Class {name!r}", np.flatnonzero(labels == label)) for label, name in enumerate(source.classes)]


def random_fold(count: int, folds: int, fold: int, seed: int) -> np.ndarray:
    """bool `[count]`: one of so many random parts, as equal as they can be, which together are everything."""
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(seed).permutation(count)[fold::folds]] = True
    return chosen


def random_share(count: int, share: float, seed: int) -> np.ndarray:
    """bool `[count]`: a random share, rounded up; a smaller share is a part of a larger one."""
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(seed).permutation(count)[: math.ceil(share * count - 1e-9)]] = True
    return chosen


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise UserError(f"The held-out fraction is {fraction}; it must lie between 0 and 1, for example 0.2.")


def _cut(source: Source, held_out: np.ndarray) -> tuple[Subset, Subset]:
    return Subset(source, np.flatnonzero(~held_out).tolist()), Subset(source, np.flatnonzero(held_out).tolist())
