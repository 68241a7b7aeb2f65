"""The evaluation of a split: which rule scores it, and what is collected for that."""

import dataclasses
from collections.abc import Sequence

from jaxft.config import Data
from jaxft.errors import UserError
from jaxft.reporting.details import Details
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.details import object_details
from jaxft.tasks.detection.found import Found
from jaxft.tasks.detection.metrics import MAIN_COUNT, Kind, coco_metrics, coco_names
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.pasting import Pasting
from jaxft.tasks.detection.voc_metrics import voc_metrics, voc_names
from jaxft.tasks.forgetting import forgotten_names
from jaxft.tasks.task import Metric, Prediction

OLD = "old"  # classes, in the names of their figures


def with_metric(fields: Detection, data: Data) -> Detection:
    """The fields with the rule that scores; where they name none, that of the data source.

    Raises:
        UserError: VOC's rule cannot score what is asked for.
    """
    metric = fields.metric or ("voc" if data.source == "voc" else "coco")
    others = [kind for kind in fields.metric_kinds if kind != "bbox"]
    if metric == "voc" and others:
        raise UserError(
            f"PASCAL VOC's rule scores boxes alone, but task.metric_kinds names {', '.join(others)}; leave it out or "
            "set --task.metric coco."
        )
    return dataclasses.replace(fields, metric=metric)


def primary_metric(fields: Detection) -> Metric:
    """The figure that decides which model is best: the mean average precision, of boxes where they are scored."""
    kinds = fields.metric_kinds or ("bbox",)
    kind = "bbox" if "bbox" in kinds else kinds[0]
    return Metric(f"{kind}_mAP" if kind in ("bbox", "segm") else f"{kind}_AR@{MAIN_COUNT}")


def metric_names(fields: Detection, classes: Sequence[str]) -> list[str]:
    """All figures that an evaluation may give; by both rules where the data source will say which one counts."""
    names: list[str] = []
    if fields.metric != "voc":
        kinds: tuple[Kind, ...] = fields.metric_kinds or (("bbox", "segm") if fields.masks else ("bbox",))
        names += coco_names(kinds, classes, fields.proposal_nums, apart(fields, classes))
    if fields.metric != "coco":
        names += voc_names(classes, fields.iou_thresholds, apart(fields, classes))
    return [*dict.fromkeys(names), *dict.fromkeys(forgotten_names(kept(fields), names))]


def kept(fields: Detection) -> str:
    """What the names of the figures of old classes begin with, where a teacher is to be heard on them; else nothing."""
    return f"{OLD}/" if fields.incremental.old_classes and fields.incremental.weight else ""


def apart(fields: Detection, classes: Sequence[str]) -> dict[str, range]:
    """The positions of old and new classes, where a detector learns new ones: they are judged by themselves, too."""
    old = fields.incremental.old_classes
    return {OLD: range(old), "new": range(old, len(classes))} if old else {}


class ObjectEvaluator:
    """The figures of a split: `coco_metrics`, or `voc_metrics` where the fields say so."""

    def __init__(self, source: ObjectSource, fields: Detection) -> None:
        self._source, self._fields = source, fields
        self._found = Pasting(source)
        self._complete: dict[int, Found] = {}
        self._figures: dict[str, float] = {}

    def add(self, index: int, prediction: Prediction) -> None:
        """Takes what `DetectionTask.predict` finds in one photo."""
        self._found.add(index, prediction)

    def result(self) -> dict[str, float]:
        """The figures; a photo that was not added has nothing found in it."""
        self._complete = self._found.all()
        self._figures = self._scored(self._complete)
        return self._figures

    def _scored(self, found: dict[int, Found]) -> dict[str, float]:
        fields, source = self._fields, self._source
        groups = apart(fields, source.classes)
        if fields.metric == "voc":
            thresholds, mode = fields.iou_thresholds, fields.voc_mode
            return voc_metrics(source, found, thresholds=thresholds, mode=mode, apart=groups)
        kinds: tuple[Kind, ...] = fields.metric_kinds or (("bbox", "segm") if self._found.masks else ("bbox",))
        thresholds, counts = fields.iou_thresholds, fields.proposal_nums
        return coco_metrics(source, found, kinds, thresholds=thresholds, counts=counts, apart=groups)

    def details(self) -> Details:
        """Figures by class and size, kinds of mistakes, confusion, and the photos."""
        return object_details(self._source, self._complete, self._figures)
