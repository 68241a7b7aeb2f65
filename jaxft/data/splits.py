"""From the data part of a configuration to its training and evaluation examples."""

from pathlib import Path

from jaxft.config import Config, Data
from jaxft.data.digits import Digits
from jaxft.data.download import fetch_archive
from jaxft.data.folder import ImageFolder
from jaxft.data.source import Source, split_holdout
from jaxft.data.tfds import Tfds
from jaxft.data.transforms import Augment, CenterCrop
from jaxft.download import cache_folder
from jaxft.errors import UserError


def open_splits(config: Config) -> tuple[Source, Source]:
    """The examples to train on and to evaluate on.

    Every file of a folder is opened here, so that a damaged photo stops the run before it starts.

    Raises:
        UserError: data are missing, unreadable, or of different classes in the two splits.
    """
    data = config.data
    train = open_split(data, data.train)
    if data.holdout:
        return split_holdout(train, data.holdout, config.seed)
    test = open_split(data, data.test)
    if train.classes != test.classes:
        raise UserError(f"The split {data.train!r} has the classes {train.classes}, {data.test!r} has {test.classes}.")
    return train, test


def open_split(data: Data, split: str) -> Source:
    """One split of the configured data.

    Raises:
        UserError: it is missing or unreadable.
    """
    if data.source == "digits":
        return Digits(split)
    if data.source == "tfds":
        if data.name is None:
            raise UserError("The data source 'tfds' needs the data set's name: --data.name NAME.")
        return Tfds(data.name, split, Path(data.root).expanduser())
    root = Path(data.root).expanduser()
    if not root.is_dir() and data.url is not None:
        root = fetch_archive(data.url, data.sha1 or "", cache_folder() / "data")
    folder = ImageFolder(root / split)
    folder.check()
    return folder


def augment(config: Config) -> Augment:
    """The random transform of training photos."""
    images = config.images
    return Augment(size=images.crop, scale=images.scale, ratio=images.ratio, flip=images.flip)


def center_crop(config: Config) -> CenterCrop:
    """The fixed transform of evaluation photos."""
    return CenterCrop(size=config.images.crop, resize=config.images.resize)
