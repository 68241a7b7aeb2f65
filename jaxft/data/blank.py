"""Black images, where the shapes of examples are wanted and nothing is opened."""

from dataclasses import dataclass

import numpy as np

from jaxft.data.source import Example

SIDE = 32  # pixels


@dataclass(frozen=True)
class Blank:
    """So many black images with the same label each."""

    classes: tuple[str, ...]
    count: int
    label: int | np.ndarray

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return Example(np.zeros((SIDE, SIDE, 3), np.uint8), self.label, str(index))

    def check(self) -> None:
        """There is nothing to open."""
