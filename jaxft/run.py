"""A run directory: the resolved configuration, the classes, and a finished run opened again."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import jax
from flax import nnx

from jaxft import config
from jaxft.checkpoint import Checkpoints
from jaxft.errors import UserError
from jaxft.models.paths import filled, values
from jaxft.setup import build, fill_in


@dataclass(frozen=True)
class RunDirectory:
    """The files of a run and where they lie."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def classes_file(self) -> Path:
        return self.path / "classes.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    def exists(self) -> bool:
        """Whether there is anything at this place."""
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    def create(self, settings: config.Config, classes: tuple[str, ...]) -> None:
        """Makes the directory and writes what makes it a run: the configuration last.

        Raises:
            UserError: there is something in it already, or the disk cannot be written.
        """
        if self.exists():
            raise UserError(
                f"{self.path} exists already and is not overwritten; go on with it by --resume, "
                "or choose another directory with --workdir."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self.classes_file, json.dumps(classes, ensure_ascii=False, indent=2) + "\n")
            _write(self.config_file, config.to_json(settings))
        except OSError as error:
            raise UserError(
                f"The run directory {self.path} cannot be written ({error}); choose another --workdir."
            ) from error

    def config(self) -> config.Config:
        """The resolved configuration.

        Raises:
            UserError: this is not a run directory, or its configuration was damaged.
        """
        try:
            return config.from_json(self.config_file.read_text(), self.config_file)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.path} is not a whole run directory: its config.json cannot be read. Name a directory that "
                "`python -m jaxft.train` made, or remove this one and train again."
            ) from error

    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the model's outputs.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return tuple(json.loads(self.classes_file.read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.classes_file} cannot be read; the run directory is not whole.") from error


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


@dataclass(frozen=True)
class FinishedRun:
    """A trained model and all that is needed to use it."""

    directory: RunDirectory
    config: config.Config
    classes: tuple[str, ...]
    model: nnx.Module
    step: int


def open_run(path: Path, which: str = "best") -> FinishedRun:
    """The best (or last) model of a run directory, in evaluation mode.

    Raises:
        UserError: the directory is no run, is damaged, or holds no checkpoint yet.
    """
    directory = RunDirectory(path)
    settings, classes = directory.config(), directory.classes()
    model = build(settings, len(classes))
    abstract = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in values(model).items()}
    if not directory.checkpoints.is_dir():
        raise UserError(f"{path} holds no checkpoint; was the run stopped before its first? Train it with --resume.")
    with Checkpoints(directory.checkpoints) as checkpoints:
        step = checkpoints.step(which)
        arrays = checkpoints.model(abstract, which)
    model = filled(model, arrays)
    fill_in(model, settings, len(classes))
    model.eval()
    return FinishedRun(directory, settings, classes, model, step or 0)
