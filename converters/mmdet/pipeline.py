"""The pipelines of an MMDetection configuration, step by step and in their order, and its `data_preprocessor`."""

from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from converters.mmdet.data import Split, local_only
from converters.mmdet.section import ConfigError, Section, flag, numbers, whole, wholes
from jaxft.errors import UserError
from jaxft.fields import HeightWidth
from jaxft.tasks.detection.bounds import needed_pad_shapes
from jaxft.tasks.detection.mixtures import TrainTransform
from jaxft.tasks.detection.transforms import TestTransform, Transform

ALONE: pydantic.TypeAdapter[Transform] = pydantic.TypeAdapter(Transform)
MIXED: pydantic.TypeAdapter[TrainTransform] = pydantic.TypeAdapter(TrainTransform)
TEST: pydantic.TypeAdapter[TestTransform] = pydantic.TypeAdapter(TestTransform)
LOADING = ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs")
COLORS = ("PhotoMetricDistortion", "YOLOXHSVRandomAug")
MIXTURES = ("Mosaic", "MixUp", "CopyPaste")
RESIZES = ("Resize", "RandomResize", "RandomChoiceResize")
STEPS = (
    *LOADING,
    *RESIZES,
    *COLORS,
    *("RandomFlip", "RandomCrop", "MinIoURandomCrop", "Expand", "Pad", "RandomAffine", "FilterAnnotations"),
    "RandomChoice",
)
# Why steps of MMDetection's own kinds are not taken.
REFUSED = {
    "InstaBoost": "it needs the package instaboostfast, which jaxft does not use",
    "Albu": "it needs the package albumentations, which jaxft does not use",
}


def training_steps(split: Split, *, masks: bool, labels: bool) -> dict[str, tuple[TrainTransform, ...]]:
    """The steps of a training pipeline, as the fields `transforms` and `photo_transforms`.

    Args:
        split: its split.
        masks: whether the model learns masks.
        labels: whether it tells classes apart.
    """
    complete = _whole([*split.pipeline, *(split.mixed or ())])
    alone = _training_steps(split, masks=masks, labels=labels)
    if split.mixed is None:
        fields: dict[str, tuple[TrainTransform, ...]] = {"transforms": alone}
    else:
        fields = {"photo_transforms": alone, "transforms": _mixed_steps(split.mixed, masks=masks)}
    if not complete:
        raise _not_whole(split)
    return fields


def _training_steps(split: Split, *, masks: bool, labels: bool) -> tuple[Transform, ...]:
    made: list[Transform] = []
    annotated = False
    for step in split.pipeline:
        kind = _kind(step, STEPS)
        if kind == "LoadAnnotations":
            _annotations(step, masks=masks, labels=labels)
            if any(done.type not in COLORS for done in made):
                key = step.key("type")
                raise ConfigError(key, key, f"{key}: annotations must be loaded before the photo is resized or cut.")
            annotated = True
        elif kind in LOADING:
            _loading(step, kind)
        else:
            made.append(_step(step, kind))
    if not annotated:
        key = f"{split.where}.pipeline"
        raise ConfigError(key, key, f"{key} has no LoadAnnotations, so there is nothing to learn from.")
    return tuple(made)


def _mixed_steps(steps: Sequence[Section], *, masks: bool) -> tuple[TrainTransform, ...]:
    """Those of a `MultiImageMixDataset` itself."""
    made: list[TrainTransform] = []
    for step in steps:
        kind = _kind(step, (*MIXTURES, *STEPS))
        if kind == LOADING[-1]:
            _loading(step, kind)
        elif kind in LOADING:
            raise step.refused("type", kind, "before photos are mixed, the pipeline of each photo reads it")
        elif kind in MIXTURES:
            if kind == "CopyPaste":
                _pasting(step, masks=masks)
            made.append(step.fields(MIXED, type=kind))
        else:
            made.append(_step(step, kind))
    return tuple(made)


def _pasting(step: Section, *, masks: bool) -> None:
    if masks:
        step.ignore("paste_by_box", because="masks are there to be pasted")
    elif not step.values.get("paste_by_box"):
        raise step.refused("paste_by_box", False, "the model learns no masks that could be pasted, so it must be True")


def evaluation_steps(splits: Mapping[str, Split]) -> tuple[TestTransform, ...]:
    """The steps before an evaluation, which all splits that are not trained on must have in common."""
    broken = [split for split in splits.values() if not _whole(split.pipeline)]
    found = {name: _evaluation_steps(split.pipeline) for name, split in splits.items()}
    (first, steps), *others = found.items()
    for name, other in others:
        if other != steps:
            key = f"{splits[name].where}.pipeline"
            raise ConfigError(
                key, key, f"{key} is another one than that of {splits[first].where}; jaxft has one for evaluations."
            )
    if broken:
        raise _not_whole(broken[0])
    return steps


def _evaluation_steps(steps: Sequence[Section]) -> tuple[TestTransform, ...]:
    made: list[TestTransform] = []
    for step in steps:
        kind = _kind(step, (*LOADING, "Resize", "Pad"))
        if kind == "LoadAnnotations":
            step.pass_over(kind, because="an evaluation compares with the annotation file itself")
        elif kind in LOADING:
            _loading(step, kind)
        else:
            made.append(step.fields(TEST, **_arguments(step, kind)))
    return tuple(made)


def _whole(steps: Sequence[Section]) -> bool:
    """Whether steps begin and end as those of MMDetection must; asked before they are read."""
    kinds = [str(step.values.get("type", "")).rpartition(".")[2] for step in steps]
    first, _, last = LOADING
    return kinds[:1] == [first] and kinds[-1:] == [last] and (kinds.count(first), kinds.count(last)) == (1, 1)


def _not_whole(split: Split) -> ConfigError:
    key = f"{split.where}.pipeline"
    return ConfigError(key, key, f"{key}: one {LOADING[0]} must be the first step, one {LOADING[-1]} the last.")


def padded(steps: Mapping[str, tuple[TrainTransform, ...]], divisor: int) -> tuple[HeightWidth, ...]:
    """What photos are padded to after the steps of `training_steps`; nothing where that depends on the photos."""
    try:
        return needed_pad_shapes((*steps.get("photo_transforms", ()), *steps["transforms"]), divisor)
    except UserError:
        return ()


def _kind(step: Section, known: Sequence[str]) -> str:
    name = str(step.values.get("type", "")).rpartition(".")[2]
    if name in REFUSED:
        key = step.key("type")
        raise ConfigError(key, f"{key} = {name}", f"{key} is {name!r}: {REFUSED[name]}.")
    if name in MIXTURES and name not in known:
        told = "it takes further photos, so it must stand in the pipeline of a MultiImageMixDataset itself"
        raise step.refused("type", name, told)
    return step.type(known)


def _loading(step: Section, kind: str) -> None:
    if kind == "PackDetInputs":
        step.ignore("meta_keys", because="it says what MMDetection notes beside a photo")
    else:
        local_only(step)
        step.ignore("to_float32", because="pixels stay whole numbers from 0 to 255 until they are normalized")
        step.only(color_type="color", imdecode_backend="cv2", ignore_empty=False)
    step.done()


def _annotations(step: Section, *, masks: bool, labels: bool) -> None:
    local_only(step)
    step.only(with_bbox=True, with_seg=False, with_keypoints=False, box_type="hbox", reduce_zero_label=False)
    step.ignore("ignore_index", "imdecode_backend", because="no semantic maps are read")
    with_label, with_mask = step.take("with_label", flag, True), step.take("with_mask", flag, False)
    if labels and not with_label:
        key = step.key("with_label")
        raise ConfigError(key, key, f"{key} is False, but the model tells classes apart.")
    if masks != with_mask:
        key = step.key("with_mask")
        learns = "learns masks" if masks else "learns no masks"
        raise ConfigError(key, key, f"{key} is {with_mask}, but the model {learns}.")
    step.ignore(
        "poly2mask",
        because="masks are bitmaps in every step; where it is False, MMDetection's differ along the outlines",
    )
    step.done()


def _step(step: Section, kind: str) -> Transform:
    if kind == "RandomChoice":
        lists = step.values.pop("transforms", ())
        if not isinstance(lists, list | tuple):
            raise step.refused("transforms", lists, "a list of steps, or of lists of them, was expected")
        lists = [item if isinstance(item, list | tuple) else [item] for item in lists]
        made = [
            [
                _step(inner, _kind(inner, STEPS[len(LOADING) :]))
                for inner in (
                    Section(values, f"{step.key('transforms')}.{row}.{column}", step.ignored)
                    for column, values in enumerate(item)
                )
            ]
            for row, item in enumerate(lists)
        ]
        return step.fields(ALONE, type=kind, transforms=made)
    return step.fields(ALONE, **_arguments(step, kind))


def _arguments(step: Section, kind: str) -> dict[str, Any]:
    """The arguments that jaxft says in another way, and the step's name."""
    if kind in RESIZES:
        step.only(backend="cv2", resize_type="Resize")
    elif kind == "RandomFlip":
        step.only(swap_seg_labels=None)
    elif kind == "Expand":
        step.ignore("seg_ignore_label", because="no semantic maps are read")
    elif kind == "Pad":
        step.only(padding_mode="constant")
        return {"type": kind} | _padding(step)
    elif kind == "RandomAffine" and isinstance(color := step.values.get("border_val"), list | tuple):
        return {"type": kind, "border_val": tuple(reversed(color))}  # B, G, R there
    return {"type": kind}


def _padding(step: Section) -> dict[str, Any]:
    """`pad_val`: a number, or a dictionary of those of photos (B, G, R), masks and semantic maps."""
    found = step.values.get("pad_val")
    if not isinstance(found, dict):
        return {}
    section = step.section("pad_val")
    section.ignore("seg", because="no semantic maps are read")
    section.only(masks=0)
    color = section.values.pop("img", 0)
    section.done()
    return {"pad_val": tuple(reversed(color)) if isinstance(color, list | tuple) else color}


def preprocessing(model: Section) -> dict[str, Any]:
    """The fields of `jaxft.config.Detection` that `data_preprocessor` gives."""
    section = model.optional("data_preprocessor")
    if section.values:
        section.type(["DetDataPreprocessor"])
    section.only(pad_value=0, mask_pad_value=0, pad_seg=False, boxtype2tensor=True)
    section.ignore("seg_pad_value", because="no semantic maps are read")
    section.ignore("pad_mask", because="masks are always padded as their photos are")
    section.ignore("non_blocking", because="it says how photos reach a device")
    mean, std = (section.take(name, numbers, (default,) * 3) for name, default in (("mean", 0.0), ("std", 1.0)))
    swaps = [section.take(name, flag, False) for name in ("bgr_to_rgb", "rgb_to_bgr")]
    if all(swaps):
        raise section.refused("rgb_to_bgr", True, "not both of bgr_to_rgb and rgb_to_bgr can be asked for")
    divisor = section.take("pad_size_divisor", whole, 1)
    if divisor < 1:
        raise section.refused("pad_size_divisor", divisor, "a positive number was expected")
    # Either swaps the channels of photos that were read as B, G, R.
    made: dict[str, Any] = {
        "mean": tuple(value / 255 for value in mean),
        "std": tuple(value / 255 for value in std),
        "bgr": not any(swaps),
        "divisor": divisor,
    }
    for augment in section.listed("batch_augments"):
        augment.type(["BatchFixedSizePad"])
        augment.only(img_pad_value=0, mask_pad_value=0, pad_seg=False)
        augment.ignore("pad_mask", because="masks are always padded as their photos are")
        augment.ignore("seg_pad_value", because="no semantic maps are read")
        size = augment.take("size", wholes)
        if len(size) != 2 or min(size) < 1:
            raise augment.refused("size", size, "height and width of a photo were expected")
        made["pad_shapes"] = (size,)
        augment.done()
    section.done()
    return made
