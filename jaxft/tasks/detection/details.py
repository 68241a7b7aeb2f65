"""What an evaluation of detections says beyond its metrics."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxft.data.photo import file_of
from jaxft.reporting.details import Cell, Confusion, Curve, Details, Example, Object, Plot, Table, printable
from jaxft.tasks.detection.contours import outline
from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.mistakes import KINDS, MISSED, RIGHT, Mistakes, mistakes
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.results import Founds, category_ids

SAID = 0.3  # the score from which on a detection counts in the confusion matrix and for a photo
COUNTED = (0.0, 0.3, 0.5)  # the scores from which on kinds of mistakes are counted
DRAWN = 0.05  # the score from which on a detection can be drawn
SHOWN = 36  # photos whose objects are kept, of each kind: the worst, and some at random
CURVES = 10  # classes in a plot at most
RECALLS = np.linspace(0, 1, 101)  # COCO's


class Truth(NamedTuple):
    """What is to be found in a photo: boxes `[T, 4]`, corners in pixels; int labels; whether it is to be ignored (a
    crowd, or VOC's difficult), and whether it is a crowd."""

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    crowds: np.ndarray


class Judged(NamedTuple):
    """A photo: what is there, what was found, all of it and what has at least the score `SAID`, and what that is."""

    truth: Truth
    found: Found
    whole: Mistakes
    said: Found
    mistakes: Mistakes


def object_details(source: ObjectSource, founds: Founds, figures: Mapping[str, float]) -> Details:
    """Figures by class and size, precision over recall, kinds of mistakes, confusion, and the photos; objects of those
    alone that are shown: the worst, and some at random.

    Args:
        founds: what was found; a photo without an entry has nothing.
        figures: the metrics.
    """
    nothing = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    judged = []
    for index in range(len(source)):
        truth, found = _truth(source, index), founds.get(index, nothing)
        said = found.above(SAID)
        judged.append(Judged(truth, found, mistakes(found, *truth), said, mistakes(said, *truth)))
    wrong = np.array([_wrong(each) for each in judged])
    worst = np.argsort(-wrong, kind="stable")[:SHOWN].tolist()
    some = np.random.default_rng(0).permutation(len(judged))[:SHOWN].tolist()
    shown = {*worst, *some}
    curves = {label: _curve(judged, label) for label in range(len(source.classes))}
    return Details(
        tables=(_classes(source, judged, curves, figures), *_sizes(figures), _kinds(judged)),
        plots=(_precisions(source, curves),),
        confusion=_confusion(source, judged),
        examples=tuple(_example(source, index, each, index in shown) for index, each in enumerate(judged)),
    )


def _truth(source: ObjectSource, index: int) -> Truth:
    """What an evaluation asks for in a photo; see `Annotated.truth`."""
    labels = {number: label for label, number in enumerate(category_ids(source))}
    entries = [entry for entry in source[index].truth if entry["category_id"] in labels]
    corners = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    classes = np.array([labels[entry["category_id"]] for entry in entries], int)
    crowds = np.array([bool(entry.get("iscrowd")) for entry in entries], bool)
    difficult = np.array([bool(entry.get("difficult")) for entry in entries], bool)
    return Truth(corners, classes, crowds | difficult, crowds)


def _wrong(photo: Judged) -> float:
    """The scores of what is wrong, and 1 for each object that nothing is right about."""
    scores = [score for score, kind in zip(photo.said.scores, photo.mistakes.kinds, strict=True) if kind in KINDS]
    return float(np.sum(scores)) + float(photo.mistakes.missed.sum())


def _curve(judged: list[Judged], label: int) -> np.ndarray | None:
    """Precision at COCO's 101 recalls, objects found by half their overlap; None of a class that does not occur."""
    scores, right, wanted = list[float](), list[bool](), 0
    for photo in judged:
        wanted += int(((photo.truth.labels == label) & ~photo.truth.ignored).sum())
        for place in np.flatnonzero(photo.found.labels == label):
            if kind := photo.whole.kinds[place]:
                scores.append(photo.found.scores[place])
                right.append(kind == RIGHT)
    if not wanted:
        return None
    order = np.argsort(-np.array(scores), kind="mergesort")
    hits = np.cumsum(np.array(right, float)[order])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / wanted, RECALLS, side="left")
    return np.append(precision, 0.0)[np.minimum(places, len(precision))]


def _classes(
    source: ObjectSource,
    judged: list[Judged],
    curves: Mapping[int, np.ndarray | None],
    figures: Mapping[str, float],
) -> Table:
    """A row a class; precision and recall of what has at least the score `SAID`."""
    objects, claims, right = Counter[int](), Counter[int](), Counter[int]()
    for photo in judged:
        objects.update(photo.truth.labels[~photo.truth.ignored].tolist())
        kept = [label for label, kind in zip(photo.said.labels.tolist(), photo.mistakes.kinds, strict=True) if kind]
        claims.update(kept)
        right.update(photo.truth.labels[photo.mistakes.found].tolist())
    scored = [kind for kind in ("bbox", "segm") if f"{kind}_mAP" in figures]
    rows = []
    for label, name in enumerate(source.classes):
        curve, there, said, hits = curves[label], objects[label], claims[label], right[label]
        row: tuple[Cell, ...] = (
            name,
            *(figures.get(f"{kind}_mAP/{name}", float("nan")) for kind in scored),
            float(curve.mean()) if curve is not None else float("nan"),
            hits / said if said else float("nan"),
            hits / there if there else float("nan"),
            2 * hits / (there + said) if there or said else float("nan"),
            there,
            said,
        )
        rows.append(row)
    names = {"bbox": "AP", "segm": "AP of masks"}
    at = f" at {SAID:g}"
    columns = (
        "class",
        *(names[kind] for kind in scored),
        "AP50",
        *(each + at for each in ("precision", "recall", "F1")),
    )
    return Table(name="classes", title="Classes", columns=(*columns, "objects", "predicted" + at), rows=tuple(rows))


def _sizes(figures: Mapping[str, float]) -> list[Table]:
    """COCO's precision and recall by size, where they were taken."""
    rows = []
    for kind, what in (("bbox", "boxes"), ("segm", "masks")):
        if f"{kind}_mAP_s" not in figures:
            continue
        recall = {name.partition("@")[0]: value for name, value in figures.items() if name.startswith(f"{kind}_AR")}
        sizes = {"all": "", "small (below 32²)": "_s", "medium": "_m", "large (from 96²)": "_l"}
        for name, end in sizes.items():
            halves = (figures.get(f"{kind}_mAP_50"), figures.get(f"{kind}_mAP_75")) if not end else (None, None)
            rows.append((what, name, figures[f"{kind}_mAP{end}"], *halves, recall.get(f"{kind}_AR{end}")))
    columns = ("of", "objects", "AP", "AP50", "AP75", "AR")
    return [Table(name="sizes", title="COCO's figures by size", columns=columns, rows=tuple(rows))] if rows else []


def _kinds(judged: list[Judged]) -> Table:
    """How many detections are right, and wrong in which way."""
    counts = [Counter[str]() for _ in COUNTED]
    for photo in judged:
        for least, counted in zip(COUNTED, counts, strict=True):
            number = int((photo.found.scores >= least).sum())
            counted.update(photo.whole.kinds[:number])
    missed = sum(int(photo.whole.missed.sum()) for photo in judged)
    meaning = {RIGHT: "an object, found by at least half its overlap", **KINDS}
    rows: list[tuple[Cell, ...]] = [
        (kind, *(counted[kind] for counted in counts), text) for kind, text in meaning.items()
    ]
    rows.append((MISSED, missed, *(None for _ in COUNTED[1:]), "objects that nothing is right or nearly right about"))
    columns = ("kind", "all", *(f"score from {least:g}" for least in COUNTED[1:]), "meaning")
    return Table(name="mistakes", title="Kinds of mistakes", columns=columns, rows=tuple(rows))


def _precisions(source: ObjectSource, curves: Mapping[int, np.ndarray | None]) -> Plot:
    occurring = {label: curve for label, curve in curves.items() if curve is not None}
    lines = []
    if len(occurring) > 1:
        lines.append(Curve(label="mean of all", x=tuple(RECALLS), y=tuple(np.mean(list(occurring.values()), axis=0))))
    lines += [
        Curve(label=source.classes[label], x=tuple(RECALLS), y=tuple(curve))
        for label, curve in list(occurring.items())[:CURVES]
    ]
    title = "Precision and recall, found by half the overlap"
    return Plot(name="precision-recall", title=title, x="recall", y="precision", curves=tuple(lines), unit_square=True)


def _confusion(source: ObjectSource, judged: list[Judged]) -> Confusion:
    """What has at least the score `SAID`; the last row is what is nothing, the last column what is not found."""
    counts = np.zeros((len(source.classes) + 1,) * 2, int)
    for photo in judged:
        for cell in _cells(photo, len(source.classes)):
            counts[cell] += 1
    return Confusion(
        truths=(*source.classes, "(nothing)"),
        predictions=(*source.classes, "(not found)"),
        counts=tuple(map(tuple, counts.tolist())),
    )


def _cells(photo: Judged, classes: int) -> list[tuple[int, int]]:
    """Where the detections and the missed objects of a photo count in the confusion matrix."""
    cells, labels = [], photo.truth.labels
    seen = photo.mistakes.found.copy()
    for label, kind, partner in zip(
        photo.said.labels.tolist(), photo.mistakes.kinds, photo.mistakes.partners, strict=True
    ):
        if kind in (RIGHT, "class"):
            cells.append((int(labels[partner]), label))
            seen[partner] = True
        elif kind:
            cells.append((classes, label))
    absent = photo.mistakes.missed & ~seen
    about = [
        partner
        for kind, partner in zip(photo.mistakes.kinds, photo.mistakes.partners.tolist(), strict=True)
        if kind == "location" and not seen[partner]
    ]
    absent[about] = True  # what is only nearly found is not
    return [*cells, *((int(labels[place]), classes) for place in np.flatnonzero(absent))]


def _example(source: ObjectSource, index: int, photo: Judged, shown: bool) -> Example:
    example = source[index]
    truth = Counter(source.classes[label] for label in photo.truth.labels[~photo.truth.ignored].tolist())
    said = Counter(source.classes[label] for label in photo.said.labels.tolist())
    return Example(
        index=index,
        name=printable(example.name),
        truth=_counted(truth),
        predicted=_counted(said),
        wrong=_wrong(photo),
        cells=tuple(dict.fromkeys(_cells(photo, len(source.classes)))),
        file=file_of(example.image),
        objects=_objects(source, photo) if shown else (),
    )


def _corners(box: np.ndarray) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, box)
    return left, top, right, bottom


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in names.most_common()) or "nothing"


def _objects(source: ObjectSource, photo: Judged) -> tuple[Object, ...]:
    """The ground truth of a photo, and what was found with at least the score `DRAWN`."""
    there, names = photo.truth, source.classes
    verdicts = ["ignored" if ignored else "found" if found else MISSED for ignored, found in
                zip(there.ignored, photo.mistakes.found, strict=True)]  # fmt: skip
    truth = [
        Object(label=names[label], box=_corners(box), verdict=verdict)
        for label, box, verdict in zip(there.labels, there.boxes, verdicts, strict=True)
    ]
    found = photo.found.above(DRAWN)
    codes = found.codes or ({},) * len(found.labels)
    return (
        *truth,
        *(
            Object(
                label=names[label],
                box=_corners(box),
                score=float(score),
                verdict=kind,
                outline=outline(code) if code else (),
            )
            for label, box, score, kind, code in zip(
                found.labels, found.boxes, found.scores, photo.whole.kinds, codes, strict=False
            )
        ),
    )
