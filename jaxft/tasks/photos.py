"""Files without ground truth, as a source."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.data.shared import Packed
from jaxft.data.source import Example


@dataclass(frozen=True)
class Photos:
    """Photos to predict; every one has the same `label`, which stands for none."""

    files: Sequence[Path]
    classes: tuple[str, ...]
    label: int | np.ndarray

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"files": Packed(self.files)}  # which worker processes share

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return Example(self.files[index], self.label, str(self.files[index]))

    def check(self) -> None:
        """A photo that cannot be read is an error when it is decoded."""
