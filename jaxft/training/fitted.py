"""What a caller of `fit` sees of a run: what callbacks are told while it lasts, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from flax import nnx
from jax import Array

from jaxft.config import Config
from jaxft.data.preprocessing import Preprocessing
from jaxft.models import initialize_missing
from jaxft.models.paths import filled
from jaxft.training.setup import Setup
from jaxft.training.state import TrainState


class Event(NamedTuple):
    """What a callback is told: after each step, or after each evaluation of the validation split.

    Attributes:
        kind: which of the two.
        step, epoch: so many of them are done.
        metrics: of the batch (arrays, which may not be computed yet), or of the split.
        state: of the run; the next step takes its memory, so copy what is to be kept.
    """

    kind: Literal["step", "evaluation"]
    step: int
    epoch: int
    metrics: Mapping[str, Array | float]
    state: TrainState


Callback = Callable[[Event], bool | None]
"""Where it returns True the run stops in order, and can be resumed."""


def resuming(path: Path) -> str:
    """The command that goes on with a run."""
    return f"python -m jaxft.train --workdir {path} --resume"


@dataclass
class Fitted:
    """A run that has come to its end, or to where it was told to stop.

    Attributes:
        state: parameters, statistics, the moving average and the optimizer's state.
        best: the best value so far of the metric that decides which model is best; None where there is none.
        complete: whether the run has come to its end, early or not, and its last step was evaluated if any is.
        signal: the number of the signal that ended the run, or None.
    """

    path: Path
    setup: Setup
    state: TrainState
    best: float | None
    complete: bool
    signal: int | None

    @property
    def step(self) -> int:
        """The steps that were taken."""
        return int(self.state.step)

    @property
    def config(self) -> Config:
        """The configuration, as it is saved."""
        return self.setup.written

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return self.setup.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos become what the model sees."""
        return self.setup.task.preprocessing()

    @property
    def summary(self) -> str:
        """How it ended, and what to type next."""
        if self.complete:
            best = "" if self.best is None else f": best validation {self.setup.best_metric.name} {self.best:.4f}"
            export = f"python -m jaxft.export --run {self.path} --format torch --output {self.path.name}.pth"
            return f"Finished{best}. Checkpoints, metrics and pictures are in {self.path}; next:\n  {export}"
        if self.step == 0:
            return "Stopped before the first step; nothing is kept."
        return f"Stopped after step {self.step}; all is saved. Go on with:\n  {resuming(self.path)}"

    @property
    def model(self) -> nnx.Module:
        """The model as it is now, in evaluation mode; with averaged parameters where an average is kept."""
        model = filled(self.setup.model, self.state.evaluated)
        initialize_missing(model, lambda: self.setup.source.build(len(self.classes)))
        model.eval()
        return model
