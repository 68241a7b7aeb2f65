"""The sources of labeled images: a folder a class, TensorFlow Datasets, scikit-learn's digits."""

from pathlib import Path

from jaxft.config import Data
from jaxft.data.digits import Digits
from jaxft.data.download import data_root
from jaxft.data.folder import ImageFolder
from jaxft.data.source import Source
from jaxft.data.tfds import Tfds
from jaxft.errors import UserError
from jaxft.tasks.splits import refuse_fields


def open_source(data: Data, split: str) -> Source:
    """One split.

    Raises:
        UserError: it is missing, a field is given that it does not read, or the source is none of classification.
    """
    if data.source in ("digits", "tfds", "folder"):
        refuse_fields(data, "classes", "single_class")
    if data.source == "digits":
        return Digits(split)
    if data.source == "tfds":
        if data.name is None:
            raise UserError("The data source 'tfds' needs the data set's name: --data.name NAME.")
        return Tfds(data.name, split, Path(data.root).expanduser())
    if data.source == "folder":
        return ImageFolder(data_root(data) / split, check_how=data.check)
    raise UserError(
        f"The task is classification, which takes the data sources folder, tfds and digits; {data.source!r} is none of "
        "them."
    )
