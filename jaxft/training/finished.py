"""A trained model and what it was trained with; and a run directory opened again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flax import nnx

from jaxft import config
from jaxft.data.preprocessing import Preprocessing
from jaxft.errors import UserError
from jaxft.models import initialize_missing
from jaxft.models.paths import filled, values
from jaxft.run import RunDirectory
from jaxft.training.checkpoint import Checkpoints, Which
from jaxft.training.model import ModelSource, abstract_for


class Trained(Protocol):
    """A trained model and what it was trained with: what `fit` gives back, and what `open_run` opens."""

    @property
    def config(self) -> config.Config: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def model(self) -> nnx.Module: ...


@dataclass(frozen=True)
class FinishedRun:
    """A trained model and all that is needed to use it; `checkpoint` is which of its run: `best`, `last` or `kept`."""

    directory: RunDirectory
    config: config.Config
    classes: tuple[str, ...]
    model: nnx.Module
    step: int
    checkpoint: str

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos become what the model sees."""
        return self.config.task.task(self.config.dtype).preprocessing()


def open_run(path: Path, which: Which | None = None, model: nnx.Module | None = None) -> FinishedRun:
    """The best or the last model of a run directory, in evaluation mode; a run under way is not disturbed.

    Args:
        which: `best`, `last`, or the step of one that was kept; by default the best where an evaluation has chosen one,
            and else the last.
        model: of a run that was given a model of the user's own: one like it.

    Raises:
        UserError: the directory is no run, is damaged, or holds no checkpoint yet.
    """
    directory = RunDirectory.at(path)
    settings, classes = directory.check(), directory.classes()
    if model is None and "model" in directory.own():
        raise UserError(
            f"{path} was trained with a model of your own, {directory.own()['model']}, which its configuration does "
            "not describe; give one like it: jaxft.load_run(path, model=...)."
        )
    source = ModelSource(settings, model)
    template = abstract_for(source, settings.task.task(settings.dtype), classes)
    with Checkpoints(directory.checkpoints, read_only=True) as checkpoints:
        which = which if which is not None else ("last" if checkpoints.step("best") is None else "best")
        averaged = values(template, *(() if settings.ema.buffers else (nnx.Param,))) if settings.ema.kept else ()
        step, arrays = checkpoints.model(values(template), which, averaged=averaged)
    opened = filled(template, arrays)
    initialize_missing(opened, lambda: source.build(len(classes)))
    opened.eval()
    return FinishedRun(directory, settings, classes, opened, step, which if isinstance(which, str) else "kept")
