"""What was found in COCO's forms: the lists of results that pycocotools scores, and what their ids stand for."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxft.reporting.details import Table, to_csv
from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.objects import Entry, ObjectSource

Founds = Mapping[int, Found]
"""What was found, by the position of the photo in its source; a photo without an entry has nothing."""


def category_ids(source: ObjectSource) -> tuple[int, ...]:
    """The id of each class: the annotation file's own, or 1, 2, ... where there is no file."""
    return source.category_ids or tuple(range(1, len(source.classes) + 1))


def coco_dataset(source: ObjectSource) -> Entry:
    """COCO's `images` and `categories` of a source, under the ids of its annotation file."""
    images = [
        {"id": example.number, "file_name": example.name, "width": example.width, "height": example.height}
        for example in source.examples
    ]
    pairs = zip(category_ids(source), source.classes, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]
    return {"info": {}, "images": images, "categories": categories}


def box_results(source: ObjectSource, found: Founds) -> list[Entry]:
    """COCO's results of boxes, which `COCO(annotations).loadRes` takes; `bbox` is x, y, width, height, pixels."""
    entries = []
    for number, objects, ids in _photos(source, found):
        for box, score, category in zip(objects.boxes, objects.scores, ids, strict=True):
            entries.append(
                {"image_id": number, "category_id": category, "bbox": corner_and_size(box), "score": float(score)}
            )
    return entries


def mask_results(source: ObjectSource, found: Founds) -> list[Entry]:
    """COCO's results of masks, in the order of `box_results`.

    They have no boxes: where there is one, pycocotools takes its area for the mask's to tell small from large.
    """
    entries = []
    for number, objects, ids in _photos(source, found):
        for code, score, category in zip(objects.codes, objects.scores, ids, strict=True):
            entries.append(
                {"image_id": number, "category_id": category, "segmentation": dict(code), "score": float(score)}
            )
    return entries


def write_results(source: ObjectSource, found: Founds, folder: Path, *, masks: bool) -> None:
    """Writes `predictions.json` (boxes), with `masks` `predictions.segm.json`, and `images.json`, the dataset that
    their ids are of: `COCO("images.json").loadRes("predictions.json")`; and `predictions.csv`, a row an object."""
    contents = {"predictions.json": box_results(source, found), "images.json": coco_dataset(source)}
    if masks:
        contents["predictions.segm.json"] = mask_results(source, found)
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "predictions.csv").write_text(to_csv(objects_table(source, found)), encoding="utf-8", newline="")


def objects_table(source: ObjectSource, found: Founds) -> Table:
    """The boxes that were found, in pixels of the photo as it is stored, by photo and then best first."""
    rows = [
        (source[index].name, source.classes[label], score, *box)
        for index, objects in sorted(found.items())
        for box, score, label in zip(
            objects.boxes.tolist(), objects.scores.tolist(), objects.labels.tolist(), strict=True
        )
    ]
    columns = ("file", "class", "score", "left", "top", "right", "bottom")
    return Table(name="predictions", title="Objects", columns=columns, rows=tuple(rows))


def write_crops(source: ObjectSource, found: Founds, folder: Path, least: float) -> int:
    """Cuts what was found with at least a score out of its photo: `CLASS/PHOTO_NUMBER.png`; how many.

    A number counts the objects of a photo, best first. Photos are decoded one after the other.
    """
    written, inside_of = 0, folders(source.classes)
    for index, objects in sorted(found.items()):
        chosen = objects.above(least)
        if not len(chosen.scores):
            continue
        pixels, stem = source[index].pixels(), f"{index:04}_{Path(source[index].name).stem}"
        for number, (box, label) in enumerate(zip(chosen.boxes, chosen.labels.tolist(), strict=True)):
            low = np.floor(box[:2]).clip(0, (pixels.shape[1] - 1, pixels.shape[0] - 1)).astype(int)
            high = np.maximum(np.ceil(box[2:]).astype(int), low + 1)
            inside = folder / inside_of[label]
            inside.mkdir(parents=True, exist_ok=True)
            cut = pixels[low[1] : high[1], low[0] : high[0]]
            Image.fromarray(np.ascontiguousarray(cut)).save(inside / f"{stem}_{number:03}.png")
            written += 1
    return written


def folders(classes: Sequence[str]) -> list[str]:
    """A folder for each class: its name without what folders cannot be called, and its number where that is not enough
    to tell it from others."""
    plain = [re.sub(r"[^\w.-]+", "_", name).strip(".")[:100] for name in classes]
    return [
        name if name and plain.count(name) == 1 else f"{name}_{number}".lstrip("_") for number, name in enumerate(plain)
    ]


def _photos(source: ObjectSource, found: Founds) -> list[tuple[int | str, Found, list[int]]]:
    """The image id, the objects and their category ids of each photo."""
    ids = category_ids(source)
    return [
        (source[index].number, objects, [ids[label] for label in objects.labels.tolist()])
        for index, objects in sorted(found.items())
    ]


def corner_and_size(box: np.ndarray) -> list[float]:
    """x, y, width, height of corners x0, y0, x1, y1."""
    x0, y0, x1, y1 = box.tolist()
    return [x0, y0, x1 - x0, y1 - y0]
