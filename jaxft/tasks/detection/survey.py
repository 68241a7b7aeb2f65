"""What a split of photos with objects holds, and what is odd in it."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from jaxft.data.photo import file_of
from jaxft.data.photo_check import Stored
from jaxft.reporting.details import Cell, Example, Table
from jaxft.reporting.survey import Remark, Survey, histogram, remark, unbalanced
from jaxft.tasks.detection.boxes import ROUNDING
from jaxft.tasks.detection.drawing import true_objects
from jaxft.tasks.detection.objects import Annotated, ObjectSource, size_problem
from jaxft.tasks.photo_survey import sizes_of, survey_photos

TINY = 4.0
"""Pixels of the photo: a box with a smaller side is tiny."""
HUGE = 0.9
"""A box that covers more of its photo is huge."""
SAME = 0.9
"""Two boxes whose overlap (IoU) is larger are double."""


def survey(source: ObjectSource) -> Survey:
    """Boxes of each class and their sizes, without crowds; how many a photo has, sizes of photos, remarks on boxes.

    Boxes that reach beyond their photo are known where the source has its file's entries (`Annotated.truth`).
    """
    examples = [_example(index, one, source.classes) for index, one in enumerate(source.examples)]
    photos = survey_photos(examples, _sizes(source))
    found = [(one, ~one.objects.ignored) for one in source.examples]
    labels = np.concatenate([np.zeros(0, int), *(one.objects.labels[counted] for one, counted in found)])
    sides = np.concatenate([np.zeros((0, 2)), *(_sides(one)[counted] for one, counted in found)])
    counts = np.bincount(labels, minlength=len(source.classes)).tolist()
    each = [len(one.objects.labels) for one in source.examples]
    plots = (
        histogram("boxes", "Boxes of a photo", "boxes", each, "photos", whole=True),
        histogram("box_sizes", "Sizes of boxes", "square root of the area, pixels", np.sqrt(sides.prod(1)), "boxes"),
    )
    empty = [example for example in examples if not example.objects]
    remarks = (
        *photos.remarks,
        *_remarks(source, examples),
        *remark("none", f"Photos without an object: {len(empty):,}", empty),
        *unbalanced(source.classes, counts, "boxes"),
    )
    return Survey(
        truths=tuple(example.truth for example in examples),
        tables=(_classes(source, labels, sides), *photos.tables),
        plots=(*plots, *photos.plots),
        remarks=remarks,
    )


def _sizes(source: ObjectSource) -> list[Stored]:
    """Sizes of the photos, or what is wrong with them, also by their annotations."""
    stored = sizes_of([one.image for one in source.examples], f"the photos of {source.where}")
    problems = [size_problem(str(one.image), one, size) for one, size in zip(source.examples, stored, strict=True)]
    return [size if problem is None else problem for problem, size in zip(problems, stored, strict=True)]


def _sides(one: Annotated) -> np.ndarray:
    """Widths and heights of boxes, `[K, 2]`."""
    return one.objects.boxes[:, 2:] - one.objects.boxes[:, :2]


def _classes(source: ObjectSource, labels: np.ndarray, sides: np.ndarray) -> Table:
    photos = [set(one.objects.labels.tolist()) for one in source.examples]
    rows: list[tuple[Cell, ...]] = []
    for label, name in enumerate(source.classes):
        own = sides[labels == label]
        medians = [round(float(side), 1) for side in np.median(own, axis=0)] if len(own) else [None, None]
        share = round(len(own) / max(len(labels), 1), 4)
        rows.append((name, len(own), share, sum(label in found for found in photos), *medians))
    columns = ("class", "boxes", "share", "photos", "median width", "median height")
    return Table(name="classes", title="Classes", columns=columns, rows=tuple(rows))


def _example(index: int, one: Annotated, classes: tuple[str, ...]) -> Example:
    drawn = tuple(true_objects(one.objects, classes))
    truth = f"{len(drawn)} object{'' if len(drawn) == 1 else 's'}"
    return Example(
        index=index, name=one.name, truth=truth, predicted="", wrong=0.0, file=file_of(one.image), objects=drawn
    )


def _remarks(source: ObjectSource, examples: list[Example]) -> Iterable[Remark]:
    """On boxes that are tiny, huge, outside or double; of the examples those boxes alone."""
    odd: dict[str, dict[int, list[int]]] = {"tiny": {}, "huge": {}, "double": {}, "conflicting": {}}
    for index, one in enumerate(source.examples):
        sides = _sides(one)
        found = {
            "tiny": (sides.min(axis=1, initial=np.inf) < TINY) & ~one.objects.ignored,
            "huge": (sides.prod(axis=1) > HUGE * one.width * one.height) & ~one.objects.ignored,
            **_twice(one),
        }
        for name, chosen in found.items():
            if chosen.any():
                odd[name][index] = np.flatnonzero(chosen).tolist()
    titles = {
        "tiny": f"Boxes with a side of less than {TINY:g} pixels",
        "huge": f"Boxes that cover more than {HUGE:.0%} of their photo",
        "double": "Boxes nearly where another one of their class is",
        "conflicting": "Boxes nearly where one of another class is",
    }
    for name, title in titles.items():
        boxes = sum(map(len, odd[name].values()))
        yield from remark(name, f"{title}: {boxes:,}", [_only(examples[at], kept) for at, kept in odd[name].items()])
    beyond = [_only(examples[index], None) for index, one in enumerate(source.examples) if _reaches_beyond(one)]
    title = f"Boxes that reach beyond their photo, and are clipped to it: {source.outside:,}"
    if beyond:
        yield from remark("outside", title, beyond)
    elif source.outside:
        yield Remark(name="outside", title=title)


def _only(example: Example, kept: list[int] | None) -> Example:
    """An example with some of its objects; None keeps all."""
    objects = example.objects if kept is None else tuple(example.objects[at] for at in kept)
    return dataclasses.replace(example, objects=objects)


def _twice(one: Annotated) -> dict[str, np.ndarray]:
    """Which boxes are nearly where another one is, of the same class and of another; crowds are none."""
    boxes, real = one.objects.boxes.astype(np.float64), ~one.objects.ignored
    overlap = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    shared = overlap.clip(min=0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    union = areas[:, None] + areas[None, :] - shared
    same = (shared > SAME * union) & real[:, None] & real[None, :] & ~np.eye(len(boxes), dtype=bool)
    alike = one.objects.labels[:, None] == one.objects.labels[None, :]
    return {"double": (same & alike).any(axis=1), "conflicting": (same & ~alike).any(axis=1)}


def _reaches_beyond(one: Annotated) -> bool:
    """Whether a box of the file's reaches beyond its photo by more than rounding."""
    low = np.array([entry["bbox"][:2] for entry in one.truth], np.float64).reshape(-1, 2)
    high = low + np.array([entry["bbox"][2:] for entry in one.truth], np.float64).reshape(-1, 2)
    return bool((low < -ROUNDING).any() or (high > np.array([[one.width, one.height]]) + ROUNDING).any())
