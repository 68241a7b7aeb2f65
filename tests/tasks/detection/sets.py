"""Random annotation files and predictions, for the tests of the figures: small, and with all that may go wrong."""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.objects import Annotated, ObjectSource, gather
from tests.scenes import run_lengths

Entry = dict[str, Any]
FIRST = 7  # the id of an annotation that every file has and that is an object to be found


def random_file(random: np.random.Generator, folder: Path) -> Path:
    """A COCO file with gaps in its ids, photos and categories without objects, crowds, entries to ignore, boxes under a
    pixel and beyond their photo, areas that are not the boxes', polygons and both kinds of run-length codes."""
    numbers = random.choice(10**6, 40, replace=False).tolist()
    categories = [{"id": numbers.pop(), "name": f"class {index}"} for index in range(int(random.integers(2, 5)))]
    images, annotations = [], []
    for index in range(int(random.integers(1, 7))):
        width, height = random.integers(40, 260, 2).tolist()
        images.append({"id": numbers.pop(), "file_name": f"{index}.jpg", "width": width, "height": height})
        for _ in range(int(random.choice([0, 1, 3, 6]))):
            category = categories[int(random.integers(len(categories) - 1))]  # the last has no object
            annotations.append(_annotation(random, images[-1], category["id"], len(annotations) + FIRST))
    if not annotations:
        annotations.append(_annotation(random, images[0], categories[0]["id"], FIRST))
    random.shuffle(annotations)
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def _annotation(random: np.random.Generator, image: Entry, category: int, number: int) -> Entry:
    corner = random.uniform(-0.1, 0.9, 2) * [image["width"], image["height"]]
    sides = np.exp(random.uniform(np.log(1.5), np.log(200), 2))
    sides = np.clip(sides, 1.5 - corner, [1.2 * image["width"], 1.2 * image["height"]] - corner)
    if random.random() < 0.4 and number % 3 == 0 and corner[0] > 0:  # a file most of whose boxes are so is not read
        sides[0] = random.uniform(0.3, 0.9)
    x0, y0, x1, y1 = [*corner.tolist(), *(corner + sides).tolist()]
    crowd, kind = bool(number > FIRST and random.random() < 0.2), random.integers(3)
    shape: Any = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if crowd or kind > 0:
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        mask[max(int(y0), 0) : int(y1) + 1, max(int(x0), 0) : int(x1) + 1] = 1
        shape = run_lengths(mask) if kind < 2 else run_length_code(mask)
    area = float(random.choice([sides.prod(), sides.prod() * 0.6, random.uniform(1, 20000)]))
    entry = {
        "id": number,
        "image_id": image["id"],
        "category_id": category,
        "bbox": [*corner.tolist(), *sides.tolist()],
    }
    more = {"ignore": 1} if number > FIRST and random.random() < 0.15 else {}
    return entry | {"area": area, "iscrowd": int(crowd), "segmentation": shape} | more


def random_found(random: np.random.Generator, source: ObjectSource, *, more: int = 0) -> dict[int, Found]:
    """Near every second object a box of mostly the right class, and boxes anywhere (`more` in the first photo)."""
    found = {}
    for index, example in enumerate(source.examples):
        if index > 0 and random.random() < 0.15:
            continue  # nothing was predicted
        objects = [entry for entry in example.truth if random.random() < 0.6]
        near = np.array([entry["bbox"] for entry in objects], float).reshape(-1, 4)
        near[:, 2:] += near[:, :2]
        near += random.normal(0, 0.06, near.shape) * (near[:, 2:] - near[:, :2]).repeat(2, 0).reshape(-1, 4)
        corner = random.uniform(0, 0.8, (3 + (more if index == 0 else 0), 2)) * [example.width, example.height]
        boxes = np.concatenate([near, np.concatenate([corner, corner + random.uniform(1, 90, corner.shape)], 1)])
        ids = list(source.category_ids)
        right = [ids.index(entry["category_id"]) if entry["category_id"] in ids else 0 for entry in objects]
        labels = np.concatenate([right, random.integers(len(ids), size=len(corner))]).astype(int)
        labels = np.where(random.random(len(labels)) < 0.15, random.integers(len(ids), size=len(labels)), labels)
        scores = -np.sort(-random.random(len(boxes)).astype(np.float32).astype(float))
        order = random.permutation(len(boxes))
        boxes = np.sort(boxes[order].astype(np.float32).astype(float).reshape(-1, 2, 2), 1).reshape(-1, 4)
        codes = [_code(box, example.height, example.width) for box in boxes]
        found[index] = Found(boxes, scores, labels[order], tuple(codes))
    return found


def _code(box: np.ndarray, height: int, width: int) -> Entry:
    mask = np.zeros((height, width), np.uint8)
    x0, y0, x1, y1 = np.maximum(box, 0).astype(int).tolist()
    mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    return run_length_code(mask)


def run_length_code(mask: np.ndarray) -> Entry:
    """pycocotools' own code of a mask `[height, width]`."""
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def judged(file: Path, predictions: Path, kind: str, **params: Any) -> COCOeval:
    """pycocotools on the two files, as its own example does it."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        judge = COCOeval(truth, truth.loadRes(str(predictions)), kind)
        for name, value in params.items():
            setattr(judge.params, name, value)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def voc_source(photos: Sequence[Sequence[tuple[Sequence[int], int, bool]]], classes: Sequence[str]) -> ObjectSource:
    """Photos with objects (xmin, ymin, xmax, ymax; label; difficult) as `read_voc` gives their truth."""
    examples = []
    for number, objects in enumerate(photos, 1):
        truth = tuple(
            {
                "id": 100 * number + index,
                "image_id": number,
                "category_id": label + 1,
                "bbox": [box[0] - 1, box[1] - 1, box[2] - box[0], box[3] - box[1]],
                "area": (box[2] - box[0]) * (box[3] - box[1]),
                "iscrowd": 0,
                "difficult": int(difficult),
            }
            for index, (box, label, difficult) in enumerate(objects)
        )
        name = f"{number}.jpg"
        examples.append(Annotated(Path(name), 500, 500, gather([], []), number, name, truth))
    ids = tuple(range(1, len(classes) + 1))
    return ObjectSource("by hand", tuple(classes), tuple(examples), category_ids=ids)
