"""The 8x8 handwritten digits that scikit-learn carries: a real data set that needs no download."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jaxft.data.source import Example, Subset, split_holdout
from jaxft.errors import UserError

_TEST_FRACTION = 0.2
_SPLIT_SEED = 0


class Digits:
    """1,797 gray images of 8 x 8 pixels in ten classes; a fixed fifth of every class is the test split.

    Attributes:
        classes: "0" to "9".
    """

    def __init__(self, split: str) -> None:
        """Load the images.

        Args:
            split: "train" has 1,438 images, "test" 359, drawn once and for all with seed 0.

        Raises:
            UserError: scikit-learn is not installed, or there is no such split.
        """
        if split not in ("train", "test"):
            raise UserError(f"The digits have no split {split!r}; choose 'train' or 'test'.")
        train, test = split_holdout(_AllDigits(), _TEST_FRACTION, _SPLIT_SEED)
        self._examples: Subset = train if split == "train" else test
        self.classes = self._examples.classes

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def check(self) -> None:
        """There is no file to open."""


class _AllDigits:
    def __init__(self) -> None:
        package = find_spec("sklearn")
        if package is None or package.origin is None:
            raise UserError("The digits come with scikit-learn, which is not installed; run `pip install jaxft[demo]`.")
        # Its file of 64 pixels and the label a line. To import `sklearn.datasets` takes longer than to import JAX.
        with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as lines:
            table = np.loadtxt(lines, dtype=np.float64, delimiter=",")
        gray = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # it counts from 0 to 16
        self._images = np.repeat(gray[..., None], 3, axis=-1)
        self._labels = table[:, -1].astype(int).tolist()
        self.classes = tuple(map(str, range(10)))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        return Example(self._images[index], self._labels[index], f"digit {index}")

    def check(self) -> None:
        """There is no file to open."""
