"""From the data part of a configuration to its training and evaluation examples."""

from pathlib import Path

from jaxft.config import Config, Data
from jaxft.data.canvas import evaluation_rows, training_rows
from jaxft.data.coco import read_coco
from jaxft.data.digits import Digits
from jaxft.data.download import fetch_archive
from jaxft.data.folder import ImageFolder
from jaxft.data.objects import ObjectSource, split_objects
from jaxft.data.rows import LabelledRows, Rows
from jaxft.data.source import Source, split_holdout
from jaxft.data.tfds import Tfds
from jaxft.data.transforms import Augment, CenterCrop
from jaxft.data.voc import read_voc
from jaxft.download import cache_folder
from jaxft.errors import UserError


def open_splits(config: Config) -> tuple[Rows, Rows]:
    """The examples to train on and to evaluate on.

    Every file is opened here, so that a damaged or missing photo stops the run before it starts.

    Raises:
        UserError: data are missing, unreadable, or of different classes in the two splits.
    """
    return _object_splits(config) if config.data.has_objects else _labelled_splits(config)


def open_split(config: Config, split: str, classes: tuple[str, ...]) -> Rows:
    """One split of the configured data, to evaluate a model of these classes on.

    Raises:
        UserError: it is missing, unreadable, or of other classes.
    """
    if config.data.has_objects:
        return evaluation_rows(_objects(config, split, classes), config.detection)
    source = _labelled(config.data, split)
    if source.classes != classes:
        raise UserError(f"The data have the classes {source.classes}, the run was trained on {classes}.")
    return labelled_rows(source, config)


def _labelled_splits(config: Config) -> tuple[LabelledRows, LabelledRows]:
    data = config.data
    train = _labelled(data, data.train)
    if data.holdout:
        parts = split_holdout(train, data.holdout, config.seed)
        return labelled_rows(parts[0], config), labelled_rows(parts[1], config)
    test = _labelled(data, data.test)
    if train.classes != test.classes:
        raise UserError(f"The split {data.train!r} has the classes {train.classes}, {data.test!r} has {test.classes}.")
    return labelled_rows(train, config), labelled_rows(test, config)


def _object_splits(config: Config) -> tuple[Rows, Rows]:
    data, settings = config.data, config.detection
    train = _objects(config, data.train, data.classes)
    if data.holdout:
        train, test = split_objects(train, data.holdout, config.seed)
    else:
        test = _objects(config, data.test, data.classes or train.classes)
    kept = [
        index
        for index, example in enumerate(train.examples)
        if min(example.width, example.height) >= settings.min_side
        and (settings.keep_empty or not example.objects.ignored.all())
    ]
    if not kept:
        raise UserError(
            f"{train.where} has no photo to train on: {len(train)} photos, none of which has an object and sides of "
            f"{settings.min_side} pixels (--detection.keep-empty, --detection.min-side)."
        )
    rows = training_rows(train.only(kept), settings, config.images.flip)
    return rows, evaluation_rows(test, settings)


def _objects(config: Config, split: str, classes: tuple[str, ...]) -> ObjectSource:
    data, root = config.data, _folder(config.data)
    if data.single_class is not None:
        classes = data.classes
    if data.source == "voc":
        if config.detection.masks:
            raise UserError("The data source 'voc' has no masks; set --detection.no-masks or convert the data to COCO.")
        source = read_voc(root, split, classes)
    else:
        file = root / data.annotation_file.replace("{split}", split)
        photos = root / data.image_folder.replace("{split}", split)
        source = read_coco(file, photos, classes, masks=config.detection.masks, complete=not data.classes)
    source.check()
    return source if data.single_class is None else source.as_one_class(data.single_class)


def _labelled(data: Data, split: str) -> Source:
    if data.source == "digits":
        return Digits(split)
    if data.source == "tfds":
        if data.name is None:
            raise UserError("The data source 'tfds' needs the data set's name: --data.name NAME.")
        return Tfds(data.name, split, Path(data.root).expanduser())
    folder = ImageFolder(_folder(data) / split)
    folder.check()
    return folder


def _folder(data: Data) -> Path:
    root = Path(data.root).expanduser()
    if not root.is_dir() and data.url is not None:
        return fetch_archive(data.url, data.sha1 or "", cache_folder() / "data")
    return root


def labelled_rows(source: Source, config: Config) -> LabelledRows:
    """Images with one class each under the transforms of a configuration."""
    return LabelledRows(source, augment(config), center_crop(config))


def augment(config: Config) -> Augment:
    """The random transform of training photos."""
    images = config.images
    return Augment(size=images.crop, scale=images.scale, ratio=images.ratio, flip=images.flip)


def center_crop(config: Config) -> CenterCrop:
    """The fixed transform of evaluation photos."""
    return CenterCrop(size=config.images.crop, resize=config.images.resize)
