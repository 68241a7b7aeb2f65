"""What a model says of photos: `python -m jaxft.predict --run DIR FILES... --output DIR`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from flax import nnx
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from rich.table import Table

from jaxft import config, pictures
from jaxft.console import make_console
from jaxft.data import Example, Source, eval_batches
from jaxft.data.folder import SUFFIXES
from jaxft.data.splits import center_crop
from jaxft.distributed import device_mesh, global_batch, replicated
from jaxft.errors import UserError, run_command
from jaxft.models.paths import filled, values
from jaxft.process import prepare
from jaxft.run import open_run
from jaxft.setup import task
from jaxft.step import Batch, Compiled, narrowed


def predict_step(template: nnx.Module, settings: config.Config) -> Callable[[Mapping[str, Array], Batch], Array]:
    """A function (model's arrays, batch) -> probabilities `[N, classes]`, to be compiled."""
    classification = task(settings)

    def step(arrays: Mapping[str, Array], batch: Batch) -> Array:
        return classification.predict(filled(template, narrowed(arrays, settings.precision)), batch)

    return step


def predict(
    step: Compiled, arrays: Mapping[str, Array], source: Source, settings: config.Config, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """What the model sees of every example, uint8 `[N, crop, crop, 3]`, and its probabilities `[N, classes]`."""
    images, probabilities = [], []
    with eval_batches(source, center_crop(settings), batch_size=settings.data.batch_size) as batches:
        for batch in batches:
            real = batch["mask"] > 0
            # Every process works on all rows and keeps all answers: pictures are few.
            part = step(arrays, global_batch({"image": own_rows(batch["image"])}, mesh))
            probabilities.append(multihost_utils.process_allgather(part, tiled=True)[real])
            images.append(batch["image"][real])
    return np.concatenate(images), np.concatenate(probabilities)


def own_rows(rows: np.ndarray) -> np.ndarray:
    """The part of a global batch that this process feeds to its devices."""
    share = len(rows) // jax.process_count()
    return rows[jax.process_index() * share : (jax.process_index() + 1) * share]


@dataclass(frozen=True)
class Photos:
    """Files without labels, as a source."""

    files: Sequence[Path]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return Example(self.files[index], 0, str(self.files[index]))


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
    """Predicts the classes of photos."""

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Photos, or folders of photos."""
    run: Path
    """The run directory."""
    output: Path | None = None
    """A folder for predictions.json and a picture, predictions.png."""
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
    step = Compiled(predict_step(run.model, run.config), mesh)
    images, probabilities = predict(step, replicated(values(run.model), mesh), Photos(files), run.config, mesh)
    table = Table("photo", "class", "probability")
    for file, row in zip(files, probabilities, strict=True):
        table.add_row(str(file), run.classes[row.argmax()], f"{row.max():.3f}")
    make_console().print(table)
    if options.output is not None:
        _write(options.output, files, images, probabilities, run.classes)


def _write(
    output: Path, files: Sequence[Path], images: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    entries: list[dict[str, Any]] = [
        {
            "file": str(file),
            "class": classes[row.argmax()],
            "probabilities": dict(zip(classes, map(float, row), strict=True)),
        }
        for file, row in zip(files, probabilities, strict=True)
    ]
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "predictions.json").write_text(json.dumps(entries, ensure_ascii=False, indent=2), encoding="utf-8")
        pictures.predictions(images[:60], None, probabilities, classes, output / "predictions.png")
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error}); choose another --output.") from error


if __name__ == "__main__":
    run_command(main)
