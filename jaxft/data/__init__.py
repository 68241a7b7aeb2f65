"""The data side: sources of labelled images, transforms, the Grain loader. NumPy in, NumPy out; no JAX, no torch."""

from jaxft.data.digits import Digits
from jaxft.data.folder import ImageFolder
from jaxft.data.loader import Batch, Batches, eval_batches, steps_per_epoch, train_batches
from jaxft.data.photo import ImageData, Photo
from jaxft.data.rows import LabelledRows, Row, Rows
from jaxft.data.source import Example, Source, Subset, split_holdout
from jaxft.data.tfds import Tfds
from jaxft.data.transforms import Augment, CenterCrop, normalize

__all__ = [
    "Augment",
    "Batch",
    "Batches",
    "CenterCrop",
    "Digits",
    "Example",
    "ImageData",
    "ImageFolder",
    "LabelledRows",
    "Photo",
    "Row",
    "Rows",
    "Source",
    "Subset",
    "Tfds",
    "eval_batches",
    "normalize",
    "split_holdout",
    "steps_per_epoch",
    "train_batches",
]
