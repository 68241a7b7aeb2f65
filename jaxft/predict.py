"""What a model says of photos: `python -m jaxft.predict --run DIR FILES... --output DIR`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from jaxft.console import make_console
from jaxft.data.folder import SUFFIXES
from jaxft.distributed import device_mesh, replicated
from jaxft.errors import UserError, run_command
from jaxft.inference import inference
from jaxft.models.paths import values
from jaxft.process import prepare
from jaxft.run import open_run


def find_photos(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the photos directly in them, sorted.

    Raises:
        UserError: a path does not exist, or a folder holds no photo.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.glob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside or not path.exists():
            raise UserError(
                f"{path} {'holds no photos' if path.exists() else 'does not exist'}; name photos or folders."
            )
        found += inside
    return found


@dataclass(frozen=True, kw_only=True)
class Options:
    """Predicts the classes of photos, or the objects in them."""

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Photos, or folders of photos."""
    run: Path
    """The run directory."""
    output: Path | None = None
    """A folder for predictions.json (of detectors in COCO's format) and pictures."""
    checkpoint: Literal["best", "last"] = "best"
    """Which model of the run."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options)
    if not options.photos:
        raise UserError("Name at least one photo or folder of photos.")
    prepare()
    files = find_photos(options.photos)
    run = open_run(options.run, options.checkpoint)
    mesh = device_mesh(run.config.data.batch_size, 1)
    at_work = inference(run.config, run.model, run.classes, mesh)
    at_work.predict(replicated(values(run.model), mesh), files, options.output, make_console())


if __name__ == "__main__":
    run_command(main)
