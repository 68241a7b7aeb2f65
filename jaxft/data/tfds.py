"""Classification data sets of TensorFlow Datasets, read without TensorFlow."""

from pathlib import Path
from typing import Any

from jaxft.data.source import Example
from jaxft.errors import UserError


class Tfds:
    """A split of a data set that has one image and one class label an example.

    Images stay encoded until a transform decodes them.

    Attributes:
        classes: names of the classes, in the order of the labels.
    """

    def __init__(self, name: str, split: str, data_dir: Path | None = None) -> None:
        """Open the data set; it is downloaded and prepared if it is not there yet.

        Args:
            name: of the data set, such as "oxford_flowers102" or "mnist:3.0.1".
            split: such as "train" or "train[:80%]".
            data_dir: where data sets are kept; None is `~/tensorflow_datasets`.

        Raises:
            UserError: TFDS is not installed, the data set is unknown, offline or has no such split, or its examples are
                not one image with one class label.
        """
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise UserError("TensorFlow Datasets is not installed; run `pip install jaxft[tfds]`.") from error
        try:
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
            image_key, label_key = _keys(name, builder.info.features, tfds)
            builder.download_and_prepare()
            skip = {image_key: tfds.decode.SkipDecoding()}
            self._records = builder.as_data_source(split=split, decoders=skip)
        except tfds.core.DatasetNotFoundError as error:
            raise UserError(f"TFDS knows no data set {name!r}; check its name in the catalog.") from error
        except ImportError as error:
            raise UserError(
                f"To prepare {name!r}, TFDS needs another package, which it does not install: {error}."
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(
                f"The TFDS data set {name!r}, split {split!r}, cannot be opened: {error} If this machine is offline, "
                f"prepare the data set on another one and copy its folder to {data_dir or '~/tensorflow_datasets'}."
            ) from error
        self._name, self._image_key, self._label_key = f"{name}/{split}", image_key, label_key
        self.classes: tuple[str, ...] = tuple(builder.info.features[label_key].names)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self._records[index]
        return Example(record[self._image_key], int(record[self._label_key]), f"{self._name}[{index}]")

    def check(self) -> None:
        """TFDS has checked its files when it prepared them."""


def _keys(name: str, features: Any, tfds: Any) -> tuple[str, str]:
    """Find the one image and the one class label among the features of an example."""
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"An example of {name!r} has the features {', '.join(features)}; expected one image and one class label."
        )
    return images[0], labels[0]
