"""Detection at work: COCO's figures of a split, drawings, and what is found in photos as COCO's JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table

from jaxft import config, pictures
from jaxft.data import Rows, eval_batches
from jaxft.data.canvas import ObjectRows, evaluation_rows
from jaxft.data.objects import Annotated, ObjectSource, gather
from jaxft.data.photo import Photo
from jaxft.detection.masks import paste
from jaxft.distributed import global_batch
from jaxft.errors import UserError
from jaxft.setup import detection
from jaxft.step import Compiled, predict_step
from jaxft.tasks.coco import Found, coco_metrics, written

GRID = 9  # photos in the picture of predictions


class Detecting:
    """`jaxft.inference.Inference` for objects in photos."""

    score = "bbox_mAP"

    def __init__(self, settings: config.Config, model: nnx.Module, classes: tuple[str, ...], mesh: Mesh) -> None:
        self._settings, self._classes, self._mesh = settings, classes, mesh
        function = predict_step(model, detection(settings), settings.precision)
        # One program a canvas: landscape and portrait where none are given.
        self._step = Compiled(function, mesh, budget=len(settings.detection.canvases) or 2)

    def evaluate(self, arrays: Mapping[str, Array], rows: Rows) -> dict[str, float]:
        """COCO's figures, `bbox_mAP` and the others of `jaxft.tasks.coco.coco_metrics`."""
        assert isinstance(rows, ObjectRows)
        return coco_metrics(rows.source, self.find(arrays, rows))

    def find(self, arrays: Mapping[str, Array], rows: ObjectRows) -> dict[int, Found]:
        """What the model finds in the photo at each position, on every process in pixels of the stored photo."""
        found: dict[int, Found] = {}
        batches = eval_batches(
            rows,
            batch_size=self._settings.data.batch_size,
            workers=self._settings.data.workers,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )
        with batches:
            for batch in batches:
                needed = {name: batch[name] for name in ("image", "size", "index")}
                part = self._step(arrays, global_batch(needed, self._mesh))
                answers = multihost_utils.process_allgather(part, tiled=True)
                for row, index in enumerate(answers["index"].tolist()):
                    if index >= 0:
                        answer = {name: array[row] for name, array in answers.items()}
                        found[index] = on_photo(answer, rows.source[index])
        return found

    def draw(self, arrays: Mapping[str, Array], rows: Rows, picture: Path) -> None:
        """A grid of photos with what was found and, thin and white, the truth."""
        assert isinstance(rows, ObjectRows)
        some = rows.source.only(np.linspace(0, len(rows) - 1, min(GRID, len(rows))).astype(int).tolist())
        found = self.find(arrays, evaluation_rows(some, self._settings.detection))
        if jax.process_index() == 0:
            drawings = [
                self._drawing(example, found[index], example.objects.boxes)
                for index, example in enumerate(some.examples)
            ]
            pictures.grid(drawings, [example.name for example in some.examples], picture)

    def predict(
        self, arrays: Mapping[str, Array], files: Sequence[Path], output: Path | None, console: Console
    ) -> None:
        """A table of how many objects of each class were found; predictions.json (COCO's) and a drawing a photo."""
        source = _photos(files, self._classes)
        found = self.find(arrays, evaluation_rows(source, self._settings.detection))
        least = self._settings.detection.show_above
        table = Table("photo", f"objects with a score of at least {least:g}", "best score")
        for index, example in enumerate(source.examples):
            entry = found[index]
            shown = entry.labels[entry.scores >= least]
            names = [f"{(shown == label).sum()} {name}" for label, name in enumerate(self._classes) if label in shown]
            table.add_row(example.name, ", ".join(names) or "none", f"{entry.scores.max(initial=0):.3f}")
        console.print(table)
        if output is None or jax.process_index() != 0:
            return
        try:
            output.mkdir(parents=True, exist_ok=True)
            (output / "predictions.json").write_text(json.dumps(written(source, found)), encoding="utf-8")
            for index, example in enumerate(source.examples):
                name = f"{index:04}_{Path(example.name).stem}.png"
                pictures.save_pixels(self._drawing(example, found[index], None), output / name)
        except OSError as error:
            raise UserError(f"{output} cannot be written ({error}); choose another --output.") from error

    def _drawing(self, example: Annotated, entry: Found, truth: np.ndarray | None) -> np.ndarray:
        shown = np.flatnonzero(entry.scores >= self._settings.detection.show_above)
        masks = [coco_mask.decode(entry.codes[index]) for index in shown] if entry.codes else []
        return pictures.objects(
            example.pixels(), entry.boxes[shown], entry.labels[shown], entry.scores[shown], masks, truth, self._classes
        )


def on_photo(answer: Mapping[str, np.ndarray], example: Annotated) -> Found:
    """One photo's row of `jaxft.tasks.detection.Detection.predict`, from the canvas back to the stored photo."""
    height, width = (int(side) for side in answer["size"])
    stretch = np.array([example.width / width, example.height / height] * 2)
    real = np.flatnonzero(answer["valid"])
    real = real[np.argsort(-answer["scores"][real], kind="stable")]
    boxes = answer["boxes"][real].astype(np.float64) * stretch
    codes: tuple[dict, ...] = ()
    if "masks" in answer:
        pasted = (
            paste(answer["masks"][row][None], box[None], example.height, example.width)[0]
            for row, box in zip(real, boxes, strict=True)  # one at a time: a hundred full photos need much memory
        )
        codes = tuple(run_length_code(mask) for mask in pasted)
    return Found(boxes, answer["scores"][real].astype(np.float64), answer["labels"][real], codes)


def run_length_code(mask: np.ndarray) -> dict:
    """The run-length code of a bool mask `[height, width]`, as JSON takes it."""
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def _photos(files: Sequence[Path], classes: tuple[str, ...]) -> ObjectSource:
    nothing = gather([], [])
    sizes = [Photo(file) for file in files]
    examples = [
        Annotated(file, photo.width, photo.height, nothing, number, str(file))
        for number, (file, photo) in enumerate(zip(files, sizes, strict=True), 1)
    ]
    return ObjectSource("the photos", classes, tuple(examples))
