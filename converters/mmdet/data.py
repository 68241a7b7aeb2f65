"""The data of an MMDetection configuration: which photos, and how they become arrays."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from converters.mmdet.section import ConfigError, Section, flag, number, numbers, text, whole, wholes
from jaxft.config import Data, Detection

WORD = r"([^A-Za-z0-9]+)"  # what lies between two words of a file's name
# Steps that say nothing beyond what every run here does anyway.
PASSED_OVER = ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs", "FilterAnnotations")


@dataclass(frozen=True)
class DataSet:
    """One split: the wrapped data set, and how often an epoch repeats it."""

    section: Section
    times: int


def read_data(config: Mapping[str, Any], model: Mapping[str, Any], batch_size: int) -> tuple[Data, int]:
    """The splits and the batch; and how many passes over the photos one of MMDetection's epochs is."""
    train, test = _data_set(config, "train_dataloader"), _data_set(config, "val_dataloader")
    names = [split.section.take("ann_file", text) for split in (train, test)]
    folders = [split.section.section("data_prefix", {"img": ""}).take("img", text, "") for split in (train, test)]
    splits = _splits(train.section.key("ann_file"), *names)
    pattern = _pattern(names[0], splits[0])
    photos = {_pattern(folder.strip("/"), split) for folder, split in zip(folders, splits, strict=True)}
    if len(photos) > 1:
        key = train.section.key("data_prefix")
        raise ConfigError(key, key, f"{key}: the folders of photos, {' and '.join(folders)}, do not follow {pattern}.")
    classes = [split.section.section("metainfo", {}).values.get("classes", ()) for split in (train, test)]
    if list(classes[0]) != list(classes[1]):
        key = test.section.key("metainfo.classes")
        raise ConfigError(key, key, f"{key} are other classes than those of the training data.")
    root = train.section.values.get("data_root") or config.get("data_root") or "data"
    data = Data(
        source="coco",
        root=str(root).rstrip("/"),
        annotation_file=pattern,
        image_folder=photos.pop() or ".",
        train=splits[0],
        validation=splits[1],
        classes=(classes[0],) if isinstance(classes[0], str) else tuple(classes[0]),
        single_class="object" if model.get("type") == "RPN" else None,
        batch_size=batch_size,
    )
    return data, train.times


def _data_set(config: Mapping[str, Any], loader: str) -> DataSet:
    section, times = Section(config, "config").section(loader).section("dataset"), 1
    section.path = f"{loader}.dataset"
    while section.type(["CocoDataset", "CityscapesDataset", "RepeatDataset"]) == "RepeatDataset":
        times *= section.take("times", whole)
        section = section.section("dataset")
    return DataSet(section, times)


def _splits(key: str, train: str, test: str) -> tuple[str, str]:
    """`a_train.json`, `a_val.json` -> `train`, `val`: the one word in which they differ."""
    words = [re.split(WORD, name) for name in (train, test)]
    differing = {pair for pair in zip(*words, strict=False) if pair[0] != pair[1]}
    if train == test:
        return "all", "all"
    if len(words[0]) != len(words[1]) or len(differing) != 1:
        raise ConfigError(key, f"{key} by no pattern", f"{key}: {train} and {test} do not differ in one word.")
    return differing.pop()


def _pattern(name: str, split: str) -> str:
    return "".join("{split}" if word == split else word for word in re.split(WORD, name))


def _normalization(preprocessor: Section) -> dict[str, Any]:
    """Means and deviations, which MMDetection gives for channels 0..255 in the order that the model sees."""
    mean, std = (preprocessor.take(name, numbers, (float(default),) * 3) for name, default in (("mean", 0), ("std", 1)))
    return {
        "mean": tuple(value / 255 for value in mean),
        "std": tuple(value / 255 for value in std),
        "bgr": not preprocessor.take("bgr_to_rgb", flag, False),
    }


def read_detection(config: Mapping[str, Any], model: Mapping[str, Any]) -> Detection:
    """How photos are resized, cropped, flipped, normalized and padded."""
    train, test = _data_set(config, "train_dataloader").section, _data_set(config, "val_dataloader").section
    filters = train.section("filter_cfg", {}) if train.has("filter_cfg") else Section({}, train.key("filter_cfg"))
    preprocessor = Section(model.get("data_preprocessor") or {}, "model.data_preprocessor")
    settings: dict[str, Any] = _normalization(preprocessor) | {
        "divisor": preprocessor.take("pad_size_divisor", whole, 1),
        "masks": bool((model.get("roi_head") or {}).get("mask_head")),
        "keep_empty": not filters.take("filter_empty_gt", flag, False),
        "min_side": filters.take("min_size", whole, 0),
        "scales": (),
    }
    for augment in preprocessor.values.get("batch_augments") or ():
        step = Section(augment, preprocessor.key("batch_augments"))
        step.type(["BatchFixedSizePad"])
        settings["pad_shapes"] = (step.take("size", _pair),)
    settings["flip"] = 0.0
    for step in _steps(config, train, "train_pipeline"):
        kind = step.type([*PASSED_OVER, *RESIZES, "RandomFlip", "RandomCrop", "PhotoMetricDistortion", "Pad"])
        if kind in PASSED_OVER:
            continue
        if kind in RESIZES:
            settings |= _resize(step, kind)
        elif kind == "RandomFlip":
            step.only(direction="horizontal")
            settings["flip"] = step.take("prob", number)
        elif kind == "RandomCrop":
            settings |= _crop(step)
        elif kind == "PhotoMetricDistortion":
            settings["distort"] = True
        step.ignore("keep_ratio", "backend", "interpolation", "size", "size_divisor", "pad_val")
        step.done()
    for step in _steps(config, test, "test_pipeline"):
        if step.type([*PASSED_OVER, "Resize", "Pad"]) == "Resize":
            settings["test_scale"] = _resize(step, "Resize")["scales"][0]
    return Detection(**settings)


def _steps(config: Mapping[str, Any], data_set: Section, name: str) -> list[Section]:
    steps = data_set.values.get("pipeline") or config.get(name) or ()
    return [Section(step, f"{name}.{index}") for index, step in enumerate(steps)]


RESIZES = ("Resize", "RandomResize", "RandomChoiceResize")


def _resize(step: Section, kind: str) -> dict[str, Any]:
    """The scales that are drawn from; the ratio of the sides must stay."""
    keep = step.take("keep_ratio", flag, False) if kind != "RandomChoiceResize" else True
    if kind == "RandomChoiceResize":
        options = step.section("resize_cfg", {}) if step.has("resize_cfg") else Section({}, step.key("resize_cfg"))
        keep = options.take("keep_ratio", flag, step.take("keep_ratio", flag, False))
        step.ignore("resize_type")
    if not keep:
        key = step.key("keep_ratio")
        raise ConfigError(key, f"{key} = False", f"{key} is False; jaxft resizes photos with their ratio of sides.")
    if kind == "RandomChoiceResize":
        return {"scales": step.take("scales", _pairs)}
    if kind == "RandomResize":
        step.only(ratio_range=None)
        draw: Literal["range"] = "range"
        return {"scales": step.take("scale", _pairs), "scale_draw": draw}
    return {"scales": (step.take("scale", _pair),)}


def _crop(step: Section) -> dict[str, Any]:
    step.only(recompute_bbox=False, bbox_clip_border=True)
    step.ignore("allow_negative_crop")
    kind = step.take("crop_type", text, "absolute")
    width, height = step.take("crop_size", numbers)
    return {"crop": (width, height), "crop_kind": kind}


def _pair(value: Any) -> tuple[int, int]:
    """Two whole numbers."""
    first, second = wholes(value)
    return first, second


def _pairs(value: Any) -> tuple[tuple[int, int], ...]:
    """A list of pairs of whole numbers."""
    return tuple(_pair(item) for item in value)
