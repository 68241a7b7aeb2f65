"""The 8x8 handwritten digits that scikit-learn carries: a real data set that needs no download."""

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
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(
                "The digits come with scikit-learn, which is not installed; run `pip install jaxft[demo]`."
            ) from error
        digits = load_digits()
        gray = np.round(digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn counts from 0 to 16
        self._images = np.repeat(gray[..., None], 3, axis=-1)
        self._labels = digits.target.tolist()
        self.classes = tuple(str(name) for name in digits.target_names)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        return Example(self._images[index], self._labels[index], f"digit {index}")

    def check(self) -> None:
        """There is no file to open."""
