"""What a run reports to programs that show it: TensorBoard, and trackers."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image


class Histogram(NamedTuple):
    """How often numbers lie between limits.

    Attributes:
        edges: `[B + 1]`, rising.
        counts: int `[B]`.
        least, most, total, squares: of all numbers: the smallest, the largest, their sum and that of their squares.
    """

    edges: np.ndarray
    counts: np.ndarray
    least: float
    most: float
    total: float
    squares: float


class Events(Protocol):
    """Takes what a run reports."""

    def scalars(self, split: str, metrics: Mapping[str, float], step: int) -> None:
        """The metrics of a split."""

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """A picture, in RGB."""

    def histogram(self, name: str, found: Histogram, step: int) -> None:
        """How numbers are distributed."""

    def close(self) -> None:
        """All is written when this returns."""


class TensorBoard:
    """TensorBoard's event files.

    Args:
        folder: where they lie.
        start_step: what a run that goes on starts from; events of later steps, which will come again, are dropped.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        self._writer = _writer(folder, start_step)

    def scalars(self, split: str, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")

    def histogram(self, name: str, found: Histogram, step: int) -> None:
        there = np.flatnonzero(found.counts)
        if not there.size:
            return
        some = slice(there[0], there[-1] + 1)
        self._writer.add_histogram_raw(
            name,
            min=found.least,
            max=found.most,
            num=int(found.counts.sum()),
            sum=found.total,
            sum_squares=found.squares,
            bucket_limits=found.edges[1:][some].tolist(),
            bucket_counts=found.counts[some].tolist(),
            global_step=step,
        )

    def close(self) -> None:
        self._writer.close()


def _writer(folder: Path, start_step: int) -> Any:
    """tensorboardX imports PyTorch wherever it is installed, which takes seconds and serves tensors alone, of which
    none come here."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hide:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=start_step + 1)
