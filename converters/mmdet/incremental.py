"""Detectors of an MMDetection configuration that learn new classes: those of https://github.com/Hi-FT/ERD."""

import copy
from collections.abc import Mapping
from typing import Any

from converters.mmdet.section import Section, flag, number, text, whole

GROWN, HEAD = "GFLIncrementERD", "GFLHeadIncrementERD"
OWN = ("ori_setting", "latest_model_flag", "top_k", "dist_loss_weight")


def plain(model: Mapping[str, Any]) -> dict[str, Any]:
    """A `model` dict as that of a GFL by itself, without what it is to learn from an old detector; others as they are.

    The code has these two classes and no others; what is called otherwise, such as `GFLIncre` of its first version for
    MMDetection 2, is refused where models are read, as any name that is not known.
    """
    head = model.get("bbox_head")
    if _kind(model) != GROWN:
        return dict(model)
    changed = {name: value for name, value in copy.deepcopy(dict(model)).items() if name not in OWN}
    changed["type"] = "GFL"
    if isinstance(head, Mapping) and _kind(head) == HEAD:
        changed["bbox_head"] = {name: value for name, value in head.items() if name != "loss_ld"} | {"type": "GFLHead"}
    return changed


def _kind(values: Mapping[str, Any]) -> str:
    return str(values.get("type", "")).rpartition(".")[2]


def read_incremental(section: Section) -> dict[str, Any]:
    """The fields of `jaxft.tasks.detection.Incremental` that a whole `model` says; none where it learns all classes.

    Raises:
        UserError: something in it is missing or not known.
    """
    if _kind(section.values) != GROWN:
        return {}
    weight = section.take("dist_loss_weight", number, 1.0)
    section.ignore("top_k", because="GFLIncrementERD has it and never reads it")
    kept = section.section("bbox_head").section("loss_ld", {"loss_weight": 0.25, "T": 10})
    if kept.has("type"):
        kept.type(["KnowledgeDistillationKLDivLoss"])
    box_weight, temperature = kept.take("loss_weight", number, 1.0), kept.take("T", number, 10)
    kept.only(reduction="mean")
    kept.done()
    if not section.take("latest_model_flag", flag, True):
        section.ignore("ori_setting", because="latest_model_flag is False, so that there is no old detector")
        return {}
    old = section.section("ori_setting")
    found = {
        "teacher": old.take("ori_checkpoint_file", text),
        "old_classes": old.take("ori_num_classes", whole),
        "weight": weight,
        "box_weight": box_weight,
        "temperature": temperature,
    }
    same = "the old detector is the new one with ori_num_classes; its weights show whether that is so"
    old.ignore("ori_config_file", because=same)
    old.done()
    return found
