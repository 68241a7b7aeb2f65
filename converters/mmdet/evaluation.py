"""The evaluators of an MMDetection configuration."""

import os.path
from typing import Any

from converters.mmdet.data import local_only
from converters.mmdet.section import ConfigError, Ignored, Section, number, numbers, text, texts, wholes
from jaxft.parts import Files, Part

KINDS = ("bbox", "segm", "proposal", "proposal_fast")
SHOWN = "an evaluation always has all figures, under jaxft's names"
WHERE = "it says where and how MMDetection computes and stores the figures"


def read_evaluators(top: Section, name: str, part: Part, root: str, *, masks: bool) -> dict[str, Any]:
    """The fields of `jaxft.config.Detection` that `val_evaluator` gives.

    Args:
        top: the whole file.
        part: what is evaluated, below `root`.
        masks: whether the model finds masks.
    """
    found = top.listed(name)
    if len(found) > 1:
        for section in [each for each in found if _name(each) == "CityScapesMetric"]:
            told = "Cityscapes' own figures are not computed; those of COCO's rule beside it are"
            section.pass_over("CityScapesMetric", because=told)
            found.remove(section)
    if len(found) != 1:
        raise ConfigError(name, f"{name} of several", f"{name} has {len(found)} entries; jaxft has one evaluation.")
    section = found[0]
    kind = section.type(["CocoMetric", "LVISMetric", "VOCMetric"])
    section.ignore("collect_device", "outfile_prefix", "use_mp_eval", because=WHERE)
    section.ignore("prefix", "classwise", "metric_items", because=SHOWN)
    local_only(section)
    if kind == "VOCMetric":
        fields = _voc(section)
    else:
        if kind == "LVISMetric":
            told = "figures are by COCO's rule; LVIS' own leaves out what was not looked for in a photo"
            section.ignored.append(Ignored(section.key("type"), kind, told))
        fields = _coco(section, part, root, masks=masks)
    section.done()
    return fields


def _name(section: Section) -> str:
    return str(section.values.get("type", "")).rpartition(".")[2]


def _coco(section: Section, part: Part, root: str, *, masks: bool) -> dict[str, Any]:
    section.only(format_only=False)
    section.ignore("sort_categories", because="categories always go by their ids")
    if section.has("ann_file"):
        file = os.path.normpath(section.take("ann_file", text))
        if file != (known := _annotations(part, root)):
            raise section.refused("ann_file", file, f"the evaluation compares with the file of its data set, {known}")
    section.elsewhere("ann_file")
    kinds = section.take("metric", texts, ("bbox",))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise section.refused("metric", unknown[0], f"known are {', '.join(KINDS)}")
    if "segm" in kinds and not masks:
        raise section.refused("metric", kinds, "but the model finds no masks")
    thresholds = section.take("iou_thrs", _one_or_more, ())
    counts = section.take("proposal_nums", wholes, (100, 300, 1000))
    if 100 not in counts:
        raise section.refused(
            "proposal_nums", counts, "100 must be among them, as COCO's mean average precision takes it"
        )
    return {"metric": "coco", "metric_kinds": kinds, "iou_thresholds": thresholds, "proposal_nums": counts}


def _annotations(part: Part, root: str) -> str:
    """The annotation file of a part that has one."""
    if isinstance(part, Files):
        return os.path.normpath(os.path.join(root, part.root, part.annotation_file))
    return "of which there are several"


def _voc(section: Section) -> dict[str, Any]:
    section.only(metric="mAP", scale_ranges=None)
    section.ignore("proposal_nums", because="they are about recall")
    mode = section.take("eval_mode", text, "11points")
    if mode not in ("11points", "area"):
        raise section.refused("eval_mode", mode, "11points or area was expected")
    thresholds = section.take("iou_thrs", _one_or_more, (0.5,))
    return {"metric": "voc", "voc_mode": mode, "iou_thresholds": thresholds}


def _one_or_more(value: Any) -> tuple[float, ...]:
    """A number, or a list of them."""
    return numbers(value) if isinstance(value, list | tuple) else (number(value),)
