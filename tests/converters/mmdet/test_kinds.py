"""One training step and one evaluation of each kind of MMDetection's configurations, shrunk, on toy photos.

`slow`: each compiles a program or two; all of them take about five minutes of processor time.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from converters.mmdet.file import read
from converters.mmdet.model import with_classes
from converters.mmdet.training import understood
from jaxft.config import Config, Ema, Phase, Pretrained, replace
from jaxft.parts import ClassBalanced, Concat, Files, Part, Repeat
from jaxft.training.loop import fit
from tests.converters.mmdet.leaves import leaves
from tests.converters.mmdet.test_leaves import KINDS
from tests.scenes import CLASSES, write_coco, write_voc
from tests.small import lines

SHRUNK = 16  # photos and what they are cut to are so many times smaller


def small(model: dict[str, Any]) -> dict[str, Any]:
    """A `model` dict with the narrowest parts that keep its kinds; its pyramid has two levels less."""
    model = with_classes(copy.deepcopy(model), 2)
    model["data_preprocessor"].pop("batch_augments", None)
    model["backbone"] |= {"depth": 50, "base_channels": 4, "init_cfg": None}
    model["neck"] |= {"in_channels": [16, 32, 64, 128], "out_channels": 16}
    head = model.get("roi_head", {})
    boxes = head.get("bbox_head", [])
    parts = [model.get("bbox_head"), model.get("rpn_head"), head.get("mask_head")]
    for part in [*parts, *(boxes if isinstance(boxes, list) else [boxes])]:
        if part:
            part["in_channels"] = 16
            widths = ("feat_channels", "fc_out_channels", "conv_out_channels")
            part |= {key: 32 for key in widths if key in part} | {key: 1 for key in ("stacked_convs",) if key in part}
    for key, value in leaves({name: model.get(name) for name in ("train_cfg", "test_cfg")}):
        if key[-1] in ("num", "nms_pre", "max_per_img") and value > 16:
            place: Any = model
            for name in key[:-1]:
                place = place[name]
            place[key[-1]] = 16
    for name in ("bbox_roi_extractor", "mask_roi_extractor"):
        if name in head:
            head[name]["out_channels"] = 16
    return model


def on_toys(part: Part, split: str) -> Part:
    """A part of the same kind of the toy photos."""
    if isinstance(part, Concat):
        return Concat(parts=tuple(on_toys(inner, split) for inner in part.parts))
    if isinstance(part, Repeat | ClassBalanced):
        return dataclasses.replace(part, part=on_toys(part.part, split))
    if part.source == "voc":
        return Files(source="voc", root="voc", annotation_file=f"ImageSets/Main/{split}.txt")
    return Files(annotation_file=f"annotations/instances_{split}.json", image_folder="photos")


def shrunk(step: Any) -> Any:
    """A step of a pipeline for photos that are so many times smaller."""
    changes = {}
    for name in ("scale", "scales", "crop_size", "size"):
        if getattr(step, name, None) is not None:
            changes[name] = smaller(getattr(step, name))
    return dataclasses.replace(step, **changes)


def smaller(value: Any) -> Any:
    return tuple(map(smaller, value)) if isinstance(value, tuple) else max(int(value) // SHRUNK, 1)


def toy(settings: Config, data: Path) -> Config:
    phase = dataclasses.replace(settings.phases[0], epochs=Phase().epochs, steps=1)
    schedule = dataclasses.replace(phase.schedule, schedulers=phase.schedule.schedulers[:1])
    changed = replace(
        settings,
        {
            "pretrained": Pretrained(),
            "data.root": str(data),
            "data.splits": {name: on_toys(part, "train") for name, part in settings.data.splits.items()},
            "data.classes": CLASSES if settings.data.classes else (),
            "data.batch_size": 1,
            "task.photo_transforms": tuple(map(shrunk, settings.task.photo_transforms)),
            "task.transforms": tuple(map(shrunk, settings.task.transforms)),
            "task.test_transforms": tuple(map(shrunk, settings.task.test_transforms)),
            "task.max_objects": 8,
            "phases": (dataclasses.replace(phase, schedule=schedule),),
            "log_every": 1,
        },
    )
    return dataclasses.replace(changed, ema=Ema())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", KINDS)
def test_a_shrunk_configuration_of_each_kind_takes_a_step(name: str, tmp_path: Path) -> None:
    write_coco(tmp_path, (1, 2, 2, 2), "train")
    write_voc(tmp_path / "voc", {f"photo{index}": [(CLASSES[index % 2], 0, (3, 4, 25, 28))] for index in range(4)})
    config = read(f"mmdet::{name}")
    config["model"] = small(config["model"])
    fitted = fit(toy(understood(config).config, tmp_path), tmp_path / "run")
    assert fitted.complete
    entries = lines(tmp_path / "run")
    train = [entry for entry in entries if entry["split"] == "train"]
    evaluation = [entry for entry in entries if entry["split"] != "train"]
    assert train[-1]["loss"] > 0
    assert evaluation
