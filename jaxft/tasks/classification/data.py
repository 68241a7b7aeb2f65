"""The sources of labeled images: a folder a class, TensorFlow Datasets, scikit-learn's digits."""

from pathlib import Path

from jaxft.config import Data
from jaxft.data.digits import Digits
from jaxft.data.download import data_root
from jaxft.data.folder import ImageFolder
from jaxft.data.source import Source, split_holdout
from jaxft.data.tfds import Tfds
from jaxft.errors import UserError


def open_splits(data: Data, seed: int) -> tuple[Source, Source]:
    """The sources to train on and to evaluate on.

    Raises:
        UserError: data are missing, or of different classes in the two splits.
    """
    train = open_source(data, data.train)
    if data.holdout:
        return split_holdout(train, data.holdout, seed)
    validation = open_source(data, data.validation)
    if train.classes != validation.classes:
        raise UserError(
            f"The split {data.train!r} has the classes {train.classes}, {data.validation!r} has {validation.classes}."
        )
    return train, validation


def open_source(data: Data, split: str) -> Source:
    """One split.

    Raises:
        UserError: it is missing, or the source is not one of classification.
    """
    if data.source == "digits":
        return Digits(split)
    if data.source == "tfds":
        if data.name is None:
            raise UserError("The data source 'tfds' needs the data set's name: --data.name NAME.")
        return Tfds(data.name, split, Path(data.root).expanduser())
    if data.source == "folder":
        return ImageFolder(data_root(data) / split)
    raise UserError(
        f"The task is classification, which takes the data sources folder, tfds and digits; {data.source!r} is none of "
        "them."
    )
