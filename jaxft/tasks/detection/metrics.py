"""COCO's evaluation of boxes, masks and proposals: `pycocotools.COCOeval` on the annotation file's own entries."""

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxft.tasks.detection.objects import Entry, ObjectSource
from jaxft.tasks.detection.proposals import fast_recall
from jaxft.tasks.detection.results import Founds, box_results, category_ids, coco_dataset, mask_results

Kind = Literal["bbox", "segm", "proposal", "proposal_fast"]
MAIN_COUNT = 100  # the objects of a photo that count for COCOeval's mean average precision
NOTHING_APART: Mapping[str, range] = MappingProxyType({})
_SIZES = {"_s": 1, "_m": 2, "_l": 3}  # positions in COCO's ranges of areas; 0 is all


def coco_metrics(
    source: ObjectSource,
    found: Founds,
    kinds: Sequence[Kind] = ("bbox",),
    *,
    thresholds: Sequence[float] = (),
    counts: Sequence[int] = (MAIN_COUNT, 300, 1000),
    apart: Mapping[str, range] = NOTHING_APART,
) -> dict[str, float]:
    """The figures of `COCOeval` for the photos of a source, 0..1; NaN where they are not defined (its -1).

    The names, and which objects count for which figure, are MMDetection's (`CocoMetric`): its `mAP` is taken at 100
    objects a photo, all other precisions at the last of `counts`.

    Args:
        source: `truth` of its photos is what is to be found.
        found: what was found.
        kinds: `bbox`, `segm`, and for objects of any class `proposal` and `proposal_fast`.
        thresholds: the overlaps from which on an object is found; COCO's 0.5, 0.55, ... 0.95 where it is empty.
        counts: objects of a photo that count, best first; 100 must be among them.
        apart: positions of classes whose precisions are given once more, by what goes before their names.

    Returns:
        For boxes `bbox_mAP` (the mean over the overlaps), `bbox_mAP_50`, `bbox_mAP_75`, for small, medium and large
        objects `bbox_mAP_s`, `_m`, `_l`, for each class `bbox_mAP/CLASS`; the mean recall `bbox_AR@100` with so many
        objects a photo, for each count that some photo reaches, and `bbox_AR_s@...`, `_m`, `_l` with the largest of
        these. For masks the same as `segm_...`, for proposals the recall alone.
    """
    most = max((len(objects.labels) for objects in found.values()), default=0)
    ordered = sorted(counts)
    reached = [count for place, count in enumerate(ordered) if count <= MAIN_COUNT or most > ordered[place - 1]]
    metrics: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
        truth = coco_truth(source)
        for kind in kinds:
            if kind == "proposal_fast":
                overlaps = thresholds or COCOeval(iouType="bbox").params.iouThrs
                recalls = fast_recall(source, found, overlaps, reached)
                metrics |= {f"{kind}_AR@{count}": value for count, value in recalls.items()}
                continue
            results = mask_results(source, found) if kind == "segm" else box_results(source, found)
            judge = _judge(truth, results, kind, thresholds, counts)
            figures = _recalls(judge, reached)
            if kind != "proposal":
                figures = _precisions(judge, source) | figures
                for name, labels in apart.items():
                    own = _main_precisions(judge, [category_ids(source)[label] for label in labels])
                    metrics |= {f"{name}/{kind}_{figure}": value for figure, value in own.items()}
            metrics |= {f"{kind}_{name}": value for name, value in figures.items()}
    return metrics


def coco_names(
    kinds: Sequence[Kind],
    classes: Sequence[str],
    counts: Sequence[int] = (MAIN_COUNT, 300, 1000),
    apart: Collection[str] = (),
) -> list[str]:
    """All that `coco_metrics` may give; which counts of objects are reached, only an evaluation says."""
    sizes, names = ("", *_SIZES), list[str]()
    for kind in kinds:
        if kind in ("bbox", "segm"):
            names += [f"{name}/{kind}_mAP{which}" for name in apart for which in ("", "_50", "_75")]
            names += [f"{kind}_mAP{which}" for which in ("", "_50", "_75", *_SIZES, *(f"/{name}" for name in classes))]
        names += [f"{kind}_AR{size}@{n}" for size in (sizes if kind != "proposal_fast" else ("",)) for n in counts]
    return names


def coco_truth(source: ObjectSource) -> COCO:
    """What is to be found as pycocotools' table, as `COCO(annotation_file)` would make it of these photos.

    VOC's difficult objects get an area outside of all of COCO's ranges. That is the one way to have COCOeval ignore an
    object that is no crowd: what overlaps it by a threshold is neither right nor wrong, what lies somewhere in it is
    wrong.
    """
    entries = [
        entry | ({"area": -1.0} if entry.get("difficult") else {})
        for example in source.examples
        for entry in example.truth
    ]
    return _table(coco_dataset(source), entries)


def _table(dataset: Entry, annotations: list[Entry]) -> COCO:
    table = COCO()
    table.dataset = dataset | {"annotations": annotations}
    table.createIndex()
    return table


def _judge(
    truth: COCO, results: list[Entry], kind: Kind, thresholds: Sequence[float], counts: Sequence[int]
) -> COCOeval:
    # loadRes takes no empty list.
    found = truth.loadRes(results) if results else _table(truth.dataset, [])
    judge = COCOeval(truth, found, "segm" if kind == "segm" else "bbox")
    judge.params.useCats = int(kind != "proposal")
    judge.params.maxDets = list(counts)
    if thresholds:
        judge.params.iouThrs = np.array(thresholds)
    judge.evaluate()
    judge.accumulate()
    return judge


def _precisions(judge: COCOeval, source: ObjectSource) -> dict[str, float]:
    precision = judge.eval["precision"]  # overlaps, recalls, classes, sizes, counts
    names = dict(zip(category_ids(source), source.classes, strict=True))
    return {
        **_main_precisions(judge, judge.params.catIds),
        **{f"mAP{name}": _mean(precision[..., size, -1]) for name, size in _SIZES.items()},
        **{f"mAP/{names[id_]}": _mean(precision[:, :, k, 0, -1]) for k, id_ in enumerate(judge.params.catIds)},
    }


def _main_precisions(judge: COCOeval, ids: Collection[int]) -> dict[str, float]:
    """The mean over overlaps, and those at a half and three quarters, of some categories."""
    precision = judge.eval["precision"][:, :, [id_ in ids for id_ in judge.params.catIds]]
    overlaps = judge.params.iouThrs
    return {
        "mAP": _mean(precision[..., 0, judge.params.maxDets.index(MAIN_COUNT)]),
        "mAP_50": _mean(precision[overlaps == 0.5, ..., 0, -1]),
        "mAP_75": _mean(precision[overlaps == 0.75, ..., 0, -1]),
    }


def _recalls(judge: COCOeval, reached: Sequence[int]) -> dict[str, float]:
    recall = judge.eval["recall"]  # overlaps, classes, sizes, counts
    return {
        **{f"AR@{count}": _mean(recall[:, :, 0, place]) for place, count in enumerate(reached)},
        **{f"AR{name}@{reached[-1]}": _mean(recall[:, :, size, -1]) for name, size in _SIZES.items()},
    }


def _mean(values: np.ndarray) -> float:
    """The mean of what COCOeval counted; NaN where that is nothing."""
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else float("nan")
