"""Classification at work: mean metrics of a split, and the probabilities of photos."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from jaxft import config, pictures
from jaxft.data import Example, Rows, Source, Subset, eval_batches
from jaxft.data.rows import LabelledRows
from jaxft.data.splits import labelled_rows
from jaxft.distributed import global_batch
from jaxft.errors import UserError
from jaxft.setup import classification
from jaxft.step import Compiled, eval_step, predict_step

GRID = 24  # photos in the picture of predictions


@dataclass(frozen=True)
class Photos:
    """Files without labels, as a source."""

    files: Sequence[Path]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return Example(self.files[index], 0, str(self.files[index]))


class Classifying:
    """`jaxft.inference.Inference` for one class an image."""

    score = "accuracy"

    def __init__(self, settings: config.Config, model: nnx.Module, classes: tuple[str, ...], mesh: Mesh) -> None:
        self._settings, self._classes, self._mesh = settings, classes, mesh
        task = classification(settings)
        self._sums = Compiled(eval_step(model, task, settings.precision), mesh)
        self._probabilities = Compiled(predict_step(model, task, settings.precision), mesh)

    def evaluate(self, arrays: Mapping[str, Array], rows: Rows) -> dict[str, float]:
        """Mean loss and accuracy (0..1)."""
        batches = eval_batches(
            rows,
            batch_size=self._settings.data.batch_size,
            workers=self._settings.data.workers,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        sums: Any = None
        with batches:
            for batch in batches:
                needed = {name: batch[name] for name in ("image", "label", "mask")}
                part = self._sums(arrays, global_batch(needed, self._mesh))
                sums = part if sums is None else jax.tree.map(lambda a, b: a + b, sums, part)
        totals = {name: float(value) for name, value in sums.items()}
        count = totals.pop("count")
        return {name: total / count for name, total in totals.items()}

    def probabilities(self, arrays: Mapping[str, Array], source: Source) -> tuple[np.ndarray, np.ndarray]:
        """What the model sees of every example, uint8 `[N, crop, crop, 3]`, and its probabilities `[N, classes]`."""
        images, probabilities = [], []
        rows = labelled_rows(source, self._settings)
        with eval_batches(rows, batch_size=self._settings.data.batch_size) as batches:
            for batch in batches:
                real = batch["mask"] > 0
                # Every process works on all rows and keeps all answers: pictures are few.
                part = self._probabilities(arrays, global_batch({"image": _own_rows(batch["image"])}, self._mesh))
                probabilities.append(multihost_utils.process_allgather(part, tiled=True)[real])
                images.append(batch["image"][real])
        return np.concatenate(images), np.concatenate(probabilities)

    def draw(self, arrays: Mapping[str, Array], rows: Rows, picture: Path) -> None:
        """A grid of photos with the predicted class, its probability and the truth."""
        assert isinstance(rows, LabelledRows)
        some = np.linspace(0, len(rows) - 1, min(GRID, len(rows))).astype(int).tolist()
        images, probabilities = self.probabilities(arrays, Subset(rows.source, some))
        if jax.process_index() == 0:
            labels = [rows.source[index].label for index in some]
            pictures.predictions(images, labels, probabilities, self._classes, picture)

    def predict(
        self, arrays: Mapping[str, Array], files: Sequence[Path], output: Path | None, console: Console
    ) -> None:
        """A table of classes; predictions.json and a picture, predictions.png."""
        images, probabilities = self.probabilities(arrays, Photos(files))
        table = Table("photo", "class", "probability")
        for file, row in zip(files, probabilities, strict=True):
            table.add_row(str(file), self._classes[row.argmax()], f"{row.max():.3f}")
        console.print(table)
        if output is not None:
            _write(output, files, images, probabilities, self._classes)


def _own_rows(rows: np.ndarray) -> np.ndarray:
    """The part of a global batch that this process feeds to its devices."""
    share = len(rows) // jax.process_count()
    return rows[jax.process_index() * share : (jax.process_index() + 1) * share]


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
