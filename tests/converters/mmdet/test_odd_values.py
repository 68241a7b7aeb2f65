"""Values of a wrong kind anywhere in an MMDetection configuration: read, or refused in a sentence."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from converters.mmdet.file import read
from converters.mmdet.training import understood
from jaxft.errors import UserError
from tests.converters.mmdet.leaves import Key, with_value

ODD = ("x", -1, 0, 3.5, [], {}, [1, 2, 3], [{}], {"type": "Nope"})
HOOKS = [{"type": "EMAHook", "momentum": 0.1}, {"type": "EarlyStoppingHook", "monitor": "coco/bbox_mAP"}]
ADAM = {"type": "AdamW", "lr": 0.1, "betas": [0.9, 0.99]}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def configuration(name: str = "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py") -> dict[str, Any]:
    found: dict[str, Any] = plain(read(f"mmdet::{name}"))
    found["custom_hooks"] = HOOKS
    found["model"]["data_preprocessor"]["batch_augments"] = [{"type": "BatchFixedSizePad", "size": [64, 64]}]
    found["optim_wrapper"]["optimizer"] = ADAM
    return found


def places(value: Any, place: Key = ()) -> Iterator[Key]:
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*place, key))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim_wrapper.optimizer.betas", [], r"optimizer\.betas is \[\]; a list of two numbers"),
        ("optim_wrapper.optimizer.betas", [0.9, 0.9, 0.9], r"optimizer\.betas is .*; a list of two numbers"),
        ("train_dataloader.dataset.data_root", -1, r"train_dataloader\.dataset\.data_root is -1"),
        ("model.data_preprocessor.pad_size_divisor", 0, r"pad_size_divisor is 0; a positive number"),
        ("model.data_preprocessor.batch_augments", "x", r"batch_augments is 'x', not a list"),
        ("model.data_preprocessor.batch_augments", ["x"], r"batch_augments\.0 is 'x'; a dict"),
        ("model.rpn_head.anchor_generator.ratios", [1, 0], r"anchor_generator\.ratios is \[1, 0\]; a list of positive"),
        ("model.roi_head.bbox_head.num_classes", [], r"num_classes is \[\]"),
        ("model.neck.in_channels", [256, 512, 0, 2048], r"model cannot be built with the sizes .* 0 input channels"),
        ("model.roi_head.bbox_head.num_classes", -1, r"model cannot be built with the sizes that it gives"),
        ("model.data_preprocessor.batch_augments.0.size", [1, 2, 3], r"size is \(1, 2, 3\); height and width"),
    ],
)
def test_it_is_named(key: str, value: Any, message: str) -> None:
    place = tuple(int(name) if name.isdigit() else name for name in key.split("."))
    with pytest.raises(UserError, match=message):
        understood(with_value(configuration(), place, value))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        "atss/atss_r50_fpn_8xb8-amp-lsj-200e_coco.py",
        "pascal_voc/retinanet_r50_fpn_1x_voc0712.py",
    ],
)
def test_there_is_no_traceback(name: str) -> None:
    whole = configuration(name)
    for place in places(whole):
        if place and (place[0] != "model" or "data_preprocessor" in place):
            for value in ODD:
                with suppress(UserError):
                    understood(with_value(whole, place, value))
