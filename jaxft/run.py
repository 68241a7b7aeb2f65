"""A run directory: the resolved configuration, the classes, the examples, what a user brought."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, cast

from jaxft import config
from jaxft.errors import UserError
from jaxft.places import place, remove_folder, write_whole
from jaxft.reporting import details
from jaxft.reporting.details import Evaluation

RUN = "run://"  # before a directory: a run as the source of first weights
Names = Mapping[str, Sequence[str]]
"""By split, a line for each example: its name, a tab, its ground truth."""


@dataclass(frozen=True)
class RunDirectory:
    """The files of a run and where they lie."""

    path: Path

    @classmethod
    def at(cls, name: str | Path) -> Self:
        """The run directory that a person names: a folder, or `gs://BUCKET/...`.

        Raises:
            UserError: it is an address of another kind, or the bucket cannot be reached.
        """
        return cls(place(name))

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def classes_file(self) -> Path:
        return self.path / "classes.json"

    @property
    def examples_file(self) -> Path:
        return self.path / "examples.json.gz"

    @property
    def own_file(self) -> Path:
        return self.path / "own.json"

    @property
    def calibration_file(self) -> Path:
        return self.path / "calibration.json"

    @property
    def teacher_file(self) -> Path:
        return self.path / "teacher.json"

    @property
    def beginning_file(self) -> Path:
        return self.path / "beginning.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def time_file(self) -> Path:
        return self.path / "time.json"

    @property
    def page_file(self) -> Path:
        return self.path / "report.html"

    @property
    def evaluation_file(self) -> Path:
        return self.path / "evaluation.json.gz"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    def exists(self) -> bool:
        """Whether there is anything at this place."""
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    def has_checkpoint(self) -> bool:
        """Whether there is a state to go on from."""
        return any(entry.name.isdigit() for entry in self.checkpoints.glob("last/*"))

    def refuse_existing(self) -> None:
        """Raises a UserError where there is something at this place already."""
        if self.exists():
            raise UserError(
                f"{self.path} exists already and is not overwritten; go on with it by --resume, "
                "or choose another directory with --workdir."
            )

    def create(
        self, settings: config.Config, classes: tuple[str, ...], examples: Names, own: Mapping[str, str]
    ) -> None:
        """Makes the directory and writes what makes it a run: the configuration last.

        Args:
            own: what is not the configuration's but the user's: `model`, `datasets`, `loss`, and what each is called.

        Raises:
            UserError: there is something in it already, or the disk cannot be written.
        """
        self.refuse_existing()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.examples_file, gzip.compress(json.dumps(examples).encode(), compresslevel=1))
            write_whole(self.classes_file, (json.dumps(classes, ensure_ascii=False, indent=2) + "\n").encode())
            if own:
                write_whole(self.own_file, (json.dumps(dict(own), indent=2) + "\n").encode())
            self.save_config(settings)
        except OSError as error:
            raise UserError(
                f"The run directory {self.path} cannot be written ({error}); choose another --workdir."
            ) from error

    def remove(self) -> None:
        """Removes the directory of a run that has nothing to go on from."""
        remove_folder(self.path)

    def save_config(self, settings: config.Config) -> None:
        """Writes the configuration, in the place of one that is there."""
        write_whole(self.config_file, config.to_json(settings).encode())

    def check(self) -> config.Config:
        """The resolved configuration of a run that can be opened, as far as its files say it.

        Raises:
            UserError: this is no whole run directory, or holds no checkpoint yet.
        """
        settings = self.config()
        self.classes()
        if not self.checkpoints.is_dir():
            raise UserError(
                f"{self.path} holds no checkpoint; was the run stopped before its first? Train it with --resume."
            )
        return settings

    def config(self) -> config.Config:
        """The resolved configuration.

        Raises:
            UserError: this is not a run directory, is one of another version, or its configuration was damaged.
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
        return tuple(cast(list[str], self._read(self.classes_file)))

    def examples(self) -> Names:
        """The examples that the run was started with.

        Raises:
            UserError: the file is missing or damaged.
        """
        return cast(dict[str, list[str]], self._read(self.examples_file))

    def evaluation(self) -> Evaluation | None:
        """The evaluation of the best model; None where there is none yet.

        Raises:
            UserError: the file is damaged.
        """
        if not self.evaluation_file.exists():
            return None
        try:
            content = gzip.decompress(self.evaluation_file.read_bytes())
        except (OSError, EOFError) as error:
            raise UserError(f"{self.evaluation_file} cannot be read; the run directory is not whole.") from error
        return details.from_json(content, str(self.evaluation_file))

    def teacher(self) -> dict[str, float]:
        """The figures of the teacher that evaluations are compared with.

        Raises:
            UserError: the file is missing or damaged.
        """
        figures = self._read(self.teacher_file)
        if not isinstance(figures, dict) or not all(isinstance(value, float | int) for value in figures.values()):
            raise UserError(f"{self.teacher_file} does not hold figures; remove it, and the teacher is evaluated anew.")
        return figures

    def own(self) -> dict[str, str]:
        """What is the user's and not the configuration's, by its name.

        Raises:
            UserError: the file is damaged.
        """
        return cast(dict[str, str], self._read(self.own_file)) if self.own_file.exists() else {}

    def _read(self, path: Path) -> object:
        try:
            data = path.read_bytes()
            return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read; the run directory is not whole.") from error


def named_run(source: str | None) -> tuple[Path, Literal["best", "last"] | int | None] | None:
    """The directory and the checkpoint that `run://DIRECTORY[#best|#last|#STEP]` names; None of other sources.

    Raises:
        UserError: the checkpoint is called otherwise.
    """
    if source is None or not source.startswith(RUN):
        return None
    directory, _, which = source.removeprefix(RUN).partition("#")
    match which:
        case "best" | "last":
            return place(directory), which
        case "":
            return place(directory), None
        case _ if which.isdecimal():
            return place(directory), int(which)
    raise UserError(f"{source} ends in #{which}; a checkpoint is called #best, #last, or by its step, #STEP.")
