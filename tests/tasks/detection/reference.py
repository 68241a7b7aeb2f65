"""Scenes of noise, for us and for live MMDetection."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

import tests.mmdet_live  # noqa: F401  # registers what MMDetection wants of mmcv before it is imported
from jaxft.tasks.detection.scene import Scene

# isort: split
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks


def scene(height: int, width: int, count: int = 3, seed: int = 0) -> Scene:
    """A photo of noise with boxes of all kinds, also some that touch the border, and random masks."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [width, height]
    boxes = corners.reshape(count, 4).astype(np.float32)
    if count:
        boxes[0] = [0, 0, width, height]
    return Scene(
        rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        boxes,
        np.arange(count, dtype=np.int32),
        np.arange(count) == 1,
        rng.integers(0, 2, (count, height, width)).astype(np.uint8),
    )


def theirs(one: Scene) -> dict[str, Any]:
    """The same for MMDetection."""
    return {
        "img": one.pixels.copy(),
        "img_shape": one.size,
        "ori_shape": one.size,
        "gt_bboxes": HorizontalBoxes(one.boxes.copy()),
        "gt_bboxes_labels": one.labels.copy(),
        "gt_ignore_flags": one.ignored.copy(),
        "gt_masks": BitmapMasks(one.masks.copy(), *one.size),
    }


def without_masks(one: Scene) -> dict[str, Any]:
    row = theirs(one)
    del row["gt_masks"]
    return row


def assert_alike(found: Scene, expected: dict[str, Any], tolerance: int = 0) -> None:
    """All but the masks, which MMDetection leaves as they were."""
    assert np.abs(found.pixels.astype(int) - expected["img"]).max() <= tolerance
    np.testing.assert_allclose(found.boxes, expected["gt_bboxes"].tensor.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.labels, expected["gt_bboxes_labels"])
    np.testing.assert_array_equal(found.ignored, expected["gt_ignore_flags"])


def assert_same(one: Scene, other: dict[str, Any]) -> None:
    np.testing.assert_array_equal(one.pixels, other["img"])
    np.testing.assert_allclose(one.boxes, other["gt_bboxes"].tensor.numpy(), rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(one.labels, other["gt_bboxes_labels"])
    np.testing.assert_array_equal(one.ignored, other["gt_ignore_flags"])
    np.testing.assert_array_equal(one.masks, other["gt_masks"].masks)


def built(step: Any, **changes: Any) -> Any:
    """MMDetection's own transform with the arguments of a step."""
    fields = {name: value for name, value in vars(step).items() if not name.startswith("_") and name != "rounding"}
    for name in {"scales", "direction", "prob"} & fields.keys():
        fields[name] = list(fields[name]) if isinstance(fields[name], tuple) else fields[name]
    if step.type == "RandomResize" and step.ratio_range is None:
        fields["scale"] = list(fields["scale"])
    if fields.get("crop_type", "").startswith("absolute"):
        fields["crop_size"] = tuple(map(int, fields["crop_size"]))
    return TRANSFORMS.build(fields | changes)


@contextmanager
def draws(uniform: Sequence[float] = (), randint: Sequence[int] = ()) -> Iterator[None]:
    """MMDetection's chance: what each call gives, and no call is left over."""
    names = ((name, iter(values)) for name, values in (("uniform", uniform), ("randint", randint)))
    mocks = {name: mock.Mock(side_effect=values) for name, values in names}
    with mock.patch.multiple("mmdet.datasets.transforms.transforms.random", **mocks):
        yield
    assert all(not list(found.side_effect) for found in mocks.values())
