"""From what a configuration says of the data to the sources of two splits: what the tasks of images share."""

from collections.abc import Callable
from pathlib import Path

from jaxft.config import Data
from jaxft.data.csv_targets import TargetSource
from jaxft.data.download import data_root
from jaxft.data.source import Source, nested_subset, oversampled, split_at_random, split_fold, split_holdout
from jaxft.errors import UserError

OpenSplit = Callable[[str, tuple[str, ...]], Source]
"""From the name of a split, and the classes that it is to have where they are known, to its source."""
Reader = Callable[[Path, Path, tuple[str, ...], bool], TargetSource]
"""`read_numbers` or `read_labels` of `jaxft.data.csv_targets`."""


def open_splits(data: Data, seed: int, open_split: OpenSplit, *, by_class: bool) -> tuple[Source, Source | None]:
    """The sources to train on and to evaluate on, None where there is no evaluation.

    Args:
        by_class: every example has one class; what is cut keeps all in proportion.

    Raises:
        UserError: data are missing, of different classes in the two splits, or too few to be cut.
    """
    train, validation = _open_both(data, seed, open_split, by_class)
    if data.subset < 1:
        train = nested_subset(train, data.subset, seed, by_class=by_class)
    if data.balance == "oversample":
        if not by_class:
            raise UserError(
                "data.balance repeats examples of rare classes, and the examples here have several; leave it out."
            )
        train = oversampled(train)
    return train, validation


def _open_both(data: Data, seed: int, open_split: OpenSplit, by_class: bool) -> tuple[Source, Source | None]:
    train = open_split(data.train, ())
    if data.folds:
        return split_fold(train, data.folds, data.fold, seed, by_class=by_class)
    if data.holdout:
        return (split_holdout if by_class else split_at_random)(train, data.holdout, seed)
    if data.validation is None:
        return train, None
    validation = open_split(data.validation, train.classes)
    if train.classes != validation.classes:
        raise UserError(
            f"The split {data.train!r} has the classes {train.classes}, {data.validation!r} has {validation.classes}."
        )
    return train, validation


def check_classes(source: Source, classes: tuple[str, ...]) -> None:
    """Raises a UserError where a source has other classes than those that a run was trained on."""
    if source.classes != classes:
        raise UserError(f"The data have the classes {source.classes}, the run was trained on {classes}.")


def refuse_fields(data: Data, *names: str) -> None:
    """Raises a UserError where one of these fields is given, which the data source does not read."""
    for name in names:
        if found := getattr(data, name):
            raise UserError(
                f"data.{name} is {found!r}, but the data source {data.source!r} has no use for it; leave it out."
            )


def open_csv(data: Data, split: str, read: Reader, classes: tuple[str, ...]) -> TargetSource:
    """A split of the data source `csv`.

    Args:
        classes: the targets, in this order; empty for those of `data.classes`, or else of the file.

    Raises:
        UserError: the file is missing, or something in it is wrong.
    """
    root = data_root(data)
    file = root / (data.annotation_file or "{split}.csv").replace("{split}", split)
    photos = root / data.image_folder.replace("{split}", split)
    source = read(file, photos, classes or data.classes, not data.classes)
    source.check_how = data.check
    return source


def open_targets(
    data: Data, split: str, classes: tuple[str, ...], task: str, read: Reader, generate: Callable[[str], Source]
) -> Source:
    """A split of images with several targets, or labels, each.

    Args:
        classes: the targets, where they are known; else empty.
        task: its name, for messages.
        read: what reads a CSV of them.
        generate: what makes pictures of the data source `shapes` with them.

    Raises:
        UserError: the split is missing, something in it is wrong, or the source is not one of such images.
    """
    if data.source == "csv":
        refuse_fields(data, "single_class")
        return open_csv(data, split, read, classes)
    if data.source == "shapes":
        refuse_fields(data, "classes", "single_class")
        return generate(split)
    raise UserError(
        f"The task is {task}, which takes the data sources csv and shapes; {data.source!r} is neither of them."
    )
