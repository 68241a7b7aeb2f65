"""A model of either task at work on splits and photos: what the loop and the commands need beyond the loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from flax import nnx
from jax import Array
from jax.sharding import Mesh
from rich.console import Console

from jaxft import config
from jaxft.classifying import Classifying
from jaxft.data import Rows
from jaxft.detecting import Detecting

Arrays = Mapping[str, Array]
"""A model's parameters and statistics by dotted path."""


class Inference(Protocol):
    """One task's part of evaluation and prediction.

    Attributes:
        score: the metric that decides which model is the best.
    """

    @property
    def score(self) -> str: ...

    def evaluate(self, arrays: Arrays, rows: Rows) -> dict[str, float]:
        """Metrics over every example of a split, each counted once; the same on all hosts."""

    def draw(self, arrays: Arrays, rows: Rows, picture: Path) -> None:
        """Draws some examples of a split with what the model says of them; the first process writes."""

    def predict(self, arrays: Arrays, files: Sequence[Path], output: Path | None, console: Console) -> None:
        """Prints what the model says of photos and, where there is an `output` folder, writes it there."""


def inference(settings: config.Config, model: nnx.Module, classes: tuple[str, ...], mesh: Mesh) -> Inference:
    """The task of a configuration; `model` is a template in evaluation mode, its arrays do not matter."""
    kind = Detecting if settings.data.has_objects else Classifying
    return kind(settings, model, classes, mesh)
