"""Detection: the losses of a detector under MMDetection's names, and COCO's or PASCAL VOC's figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image
from rich.table import Table

from jaxft.config import Data
from jaxft.data.dataset import Dataset
from jaxft.data.photo import ImageData, Photo
from jaxft.data.preprocessing import Preprocessing
from jaxft.data.transforms import normalize
from jaxft.errors import UserError
from jaxft.models.detectors.dense.elastic import elastic_losses
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.detectors.detector import pad_shape_of
from jaxft.models.detectors.types import Targets
from jaxft.models.paths import walk
from jaxft.reporting.details import Example
from jaxft.reporting.survey import Survey
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.blank import blank_photos
from jaxft.tasks.detection.bounds import needed_pad_shapes
from jaxft.tasks.detection.data import open_dataset, open_datasets
from jaxft.tasks.detection.dataset import ObjectDataset, evaluation_dataset
from jaxft.tasks.detection.drawing import found_objects, true_objects
from jaxft.tasks.detection.evaluator import ObjectEvaluator, kept, metric_names, primary_metric
from jaxft.tasks.detection.feeding import fed_photo
from jaxft.tasks.detection.found import Found, on_photo
from jaxft.tasks.detection.objects import Annotated, ObjectSource, gather
from jaxft.tasks.detection.results import write_crops, write_results
from jaxft.tasks.detection.steps import evaluation_steps, only_scale
from jaxft.tasks.detection.survey import survey
from jaxft.tasks.detection.teaching import (
    check_grown,
    check_same_maps,
    check_same_stages,
    taught_classes,
    terms_loss,
)
from jaxft.tasks.detection.views import object_views
from jaxft.tasks.task import Fed, Prediction, Predictions, Program, Taught
from jaxft.tasks.views import Link, Viewed, Viewing

Arrays = dict[str, Array]


class DetectionTask:
    """Objects in padded uint8 photos, `[N, H, W, 3]`.

    Args:
        fields: the task's part of a configuration.
        dtype: of the images that the model sees, and so of its arithmetic; boxes stay float32.
    """

    link: Link | None = None

    def __init__(self, fields: Detection, dtype: str = "float32") -> None:
        self.fields, self.dtype = fields, dtype
        self.primary_metric = primary_metric(fields)

    @property
    def kept(self) -> str:
        return kept(self.fields)

    # Data

    def metric_names(self, classes: tuple[str, ...]) -> Sequence[str]:
        return metric_names(self.fields, classes)

    def datasets(self, data: Data, seed: int) -> tuple[Dataset, Dataset | None]:
        return open_datasets(data, self.fields, seed)

    def dataset(self, data: Data, split: str, classes: tuple[str, ...]) -> Dataset:
        return open_dataset(data, self.fields, split, classes)

    def photos(self, files: Sequence[Path], classes: tuple[str, ...]) -> Dataset:
        nothing = gather([], [])
        sizes = [Photo(file) for file in files]
        examples = [
            Annotated(file, photo.width, photo.height, nothing, number, str(file))
            for number, (file, photo) in enumerate(zip(files, sizes, strict=True), 1)
        ]
        return evaluation_dataset(ObjectSource("the photos", classes, tuple(examples)), self.fields)

    def blank(self, data: Data, classes: tuple[str, ...], count: int) -> Dataset:
        return blank_photos(self.fields, classes, count)

    def stored(self, dataset: Dataset, index: int) -> ImageData:
        return _objects(dataset).source[index].image

    def survey(self, dataset: Dataset) -> Survey:
        return survey(_objects(dataset).source)

    # The model

    def preprocessing(self) -> Preprocessing:
        fields, steps = self.fields, evaluation_steps(self.fields)
        scale = only_scale(steps)
        return Preprocessing(
            size=None,
            resize=min(scale) if scale else None,
            longest=max(scale) if scale else None,
            transforms=() if scale else tuple(asdict(step) for step in steps),
            mean=fields.mean,
            std=fields.std,
            bgr=fields.bgr,
        )

    def check_model(self, model: Any, classes: tuple[str, ...]) -> None:
        if not (hasattr(model, "loss") and hasattr(model, "predict")):
            raise UserError(
                f"The model is a classifier ({type(model).__name__}), but the task is detection; choose a detector by "
                "--model.name, or a configuration whose task is Classification()."
            )
        if self._old:
            check_grown(model)
        if len(classes) > 1 and isinstance(getattr(model, "bbox_head", None), RPNHead):
            raise UserError(
                f"The model is an RPN alone, which knows a single class, but the data have {len(classes)}; let them "
                "count as one with --data.single-class object."
            )
        has_masks = any(".mask_head." in f".{path}" for path, *_ in walk(model))
        if "segm" in self.fields.metric_kinds and not has_masks:
            raise UserError(
                f"{type(model).__name__} finds no masks, but task.metric_kinds names segm; leave it out, or take a "
                "model that does."
            )
        if not self.fields.masks and has_masks:
            raise UserError(f"{type(model).__name__} learns masks, so the data must have them; set --task.masks.")

    def images(self, pixels: Array, size: Array) -> Array:
        """uint8 `[N, H, W, 3]` -> normalized, in the task's dtype, and zero outside `size` `[N, 2]` (height, width).

        The zeros come after the normalization, as in MMDetection and torchvision: padding is the mean color.
        """
        ordered = pixels[..., ::-1] if self.fields.bgr else pixels
        normalized = normalize(ordered, self.fields.mean, self.fields.std)
        rows = jnp.arange(pixels.shape[1])[None, :] < size[:, :1]
        columns = jnp.arange(pixels.shape[2])[None, :] < size[:, 1:]
        inside = rows[:, :, None, None] & columns[:, None, :, None]
        return jnp.where(inside, normalized, 0).astype(self.dtype)

    def loss(self, model: Any, batch: Mapping[str, Array]) -> tuple[Array, Arrays]:
        """The sum of all terms whose name contains `loss`, MMDetection's rule; and every term, with that sum as `loss`.

        `batch` is that of `jaxft.tasks.detection.dataset.ObjectDataset.training`.
        """
        terms = self._terms(model, batch)
        loss = terms_loss(terms)
        return loss, terms | {"loss": loss}

    def _terms(self, model: Any, batch: Mapping[str, Array]) -> Arrays:
        images, size, old = self.images(batch["image"], batch["size"]), batch["size"], self._old
        targets = _targets(batch)
        if old:
            return dict(model.bbox_head.loss(model.outputs(images), size, pad_shape_of(images), targets, old=old))
        return dict(model.loss(images, size, targets))

    @property
    def _old(self) -> int:
        return self.fields.incremental.old_classes

    def taught(self, model: Any, teacher: Any, batch: Mapping[str, Array], temperature: Array | None) -> Taught:
        """Classes are compared by `jaxft.tasks.detection.teaching.taught_classes`; where the teacher knows some of them
        alone, by `elastic_losses`, whose terms are metrics, too."""
        size, old, incremental = batch["size"], self._old, self.fields.incremental
        images, pad_shape = self.images(batch["image"], size), pad_shape_of(batch["image"])
        if temperature is None:
            teacher.feature_maps(images)
            return Taught(*self.loss(model, batch), jnp.zeros((), jnp.float32))
        targets = _targets(batch)
        if not old:
            terms, response = taught_classes(model, teacher, images, size, targets, temperature)
            return _with_loss(terms, {}, response)
        check_same_stages(model, teacher)
        head, outputs, theirs = model.bbox_head, model.outputs(images), teacher.outputs(images)
        check_same_maps(outputs, theirs, old)
        kept = elastic_losses(
            head,
            outputs,
            theirs,
            size,
            pad_shape,
            old,
            temperature,
            box_weight=incremental.box_weight,
            scale_boxes=incremental.scale_boxes,
        )
        return _with_loss(head.loss(outputs, size, pad_shape, targets, old=old), kept, terms_loss(kept))

    def predict(self, model: Any, batch: Mapping[str, Array]) -> Arrays:
        """What the model finds in a batch `{image, size}`, and `seen` where a step `Pad` makes photos larger.

        Returns:
            `boxes` `[N, D, 4]` in pixels of the padded image, `scores`, `labels`, `valid` `[N, D]`, `masks`
            `[N, D, M, M]` where the model has them, and `size` as it came.
        """
        size, seen = batch["size"], batch.get("seen", batch["size"])
        found = model.predict(self.images(batch["image"], seen), seen)
        answer = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "valid": found.valid}
        if found.masks is not None:
            answer["masks"] = found.masks
        return answer | {"size": size}

    def viewed(self, dataset: Dataset, viewing: Viewing) -> Viewed:
        return object_views(_objects(dataset), viewing)

    # Results

    def photo(self, dataset: Dataset, index: int) -> np.ndarray:
        return _objects(dataset).source[index].pixels()

    def evaluator(self, dataset: Dataset) -> ObjectEvaluator:
        opened = _objects(dataset)
        return ObjectEvaluator(opened.source, opened.settings)

    def panel(self, dataset: Dataset, example: Example, cell: tuple[int, int]) -> np.ndarray:
        from jaxft.reporting.mosaic import fitted  # matplotlib takes a while to import
        from jaxft.reporting.objects import class_colors, draw_objects

        pixels, factor = fitted(self.photo(dataset, example.index), cell)
        least = self.fields.show_above
        shown = [one for one in example.objects if one.score is None or one.score >= least]
        return draw_objects(pixels, shown, class_colors(dataset.classes), factor)

    def fed(self, dataset: Dataset, index: int, rng: np.random.Generator) -> Fed:
        return fed_photo(_objects(dataset), index, rng)

    def _drawing(self, example: Annotated, found: Found, classes: Sequence[str]) -> np.ndarray:
        from jaxft.reporting.objects import class_colors, draw_objects

        objects = found_objects(found.above(self.fields.show_above), classes)
        return draw_objects(
            example.pixels(), [*true_objects(example.objects, classes), *objects], class_colors(classes)
        )

    def table(self, dataset: Dataset, predictions: Predictions) -> Table:
        least = self.fields.show_above
        table = Table("photo", f"objects with a score of at least {least:g}", "best score")
        for index, prediction in predictions.items():
            example = _objects(dataset).source[index]
            found = on_photo(prediction, example, masks=False)
            shown = found.labels[found.scores >= least]
            names = [f"{(shown == label).sum()} {name}" for label, name in enumerate(dataset.classes) if label in shown]
            table.add_row(example.name, ", ".join(names) or "none", f"{found.scores.max(initial=0):.3f}")
        return table

    def entries(self, dataset: Dataset, predictions: Predictions) -> list[dict[str, Any]]:
        """With `objects`, best first: `class`, `score`, and `box`: left, top, right, bottom in pixels of the photo."""
        entries = []
        for index, prediction in predictions.items():
            example = _objects(dataset).source[index]
            found = on_photo(prediction, example, masks=False)
            objects = [
                {"class": dataset.classes[label], "score": float(score), "box": box.tolist()}
                for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
            ]
            entries.append({"file": example.name, "objects": objects})
        return entries

    def write(self, dataset: Dataset, predictions: Iterable[tuple[int, Prediction]], folder: Path) -> None:
        """COCO's results and a table (`jaxft.tasks.detection.results.write_results`), and a drawing a photo."""
        source, found, masks = _objects(dataset).source, dict[int, Found](), False
        for index, prediction in predictions:
            example = source[index]
            masks |= "masks" in prediction
            found[index] = on_photo(prediction, example)
            name = f"{index:04}_{Path(example.name).stem}.png"
            Image.fromarray(self._drawing(example, found[index], dataset.classes)).save(folder / name)
        write_results(source, found, folder, masks=masks)

    def crop(self, dataset: Dataset, predictions: Predictions, folder: Path, least: float) -> int:
        found = {
            index: on_photo(prediction, _objects(dataset).source[index], masks=False)
            for index, prediction in predictions.items()
        }
        return write_crops(_objects(dataset).source, found, folder, least)

    def program(self, model: Any, pad_shape: tuple[int, int] | None) -> Program:
        """A uint8 photo `[1, H, W, 3]`, resized, in the upper left corner of zeros, and its size int32 `[1, 2]`
        (height, width) -> `boxes` `[1, D, 4]` in pixels of the padded image, `scores`, `labels`, `valid` `[1, D]`, and
        `masks` where the model finds them. `pad_shape` is by default the first that evaluation uses, the landscape one.
        """
        fields = self.fields
        shapes = (pad_shape,) if pad_shape else fields.pad_shapes
        height, width = (shapes or needed_pad_shapes(evaluation_steps(fields), fields.divisor))[0]

        def found(pixels: Array, size: Array) -> Arrays:
            answer = self.predict(model, {"image": pixels, "size": size})
            return {name: value for name, value in answer.items() if name != "size"}

        photo, size = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
        return Program(found, (photo, size))


def _with_loss(terms: Arrays, more: Arrays, response: Array) -> Taught:
    loss = terms_loss(terms)
    return Taught(loss, terms | more | {"loss": loss}, response)


def _targets(batch: Mapping[str, Array]) -> Targets:
    return Targets(batch["boxes"], batch["label"], batch["valid"], batch["ignored"], batch.get("masks"))


def _objects(dataset: Dataset) -> ObjectDataset:
    if not isinstance(dataset, ObjectDataset):
        raise UserError(
            f"The task is detection, which makes its datasets itself from data.source, but yours is of the kind "
            f"{type(dataset).__name__}; leave it out, or take another task."
        )
    return dataset
