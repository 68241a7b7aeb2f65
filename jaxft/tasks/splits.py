"""From what a configuration says of the data to the sources of two splits: what the tasks of images share."""

from collections.abc import Callable
from pathlib import Path

from jaxft.config import Data
from jaxft.data.csv_targets import TargetSource
from jaxft.data.download import data_root

Reader = Callable[[Path, Path, tuple[str, ...], bool], TargetSource]
"""`read_numbers` or `read_labels` of `jaxft.data.csv_targets`."""


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
    return read(file, photos, classes or data.classes, not data.classes)
