"""No setting of an MMDetection configuration is taken in silence: a change of it has an effect, or is refused by name,
or it is among those that are passed over, with a reason."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from converters.mmdet.file import read
from converters.mmdet.model import parse
from jaxft.errors import UserError
from tests import mmdet_live
from tests.converters.mmdet.leaves import leaves, pattern, result, silent

KINDS = (
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "mask_rcnn/mask-rcnn_r50-caffe_fpn_ms-1x_coco.py",
    "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "gfl/gfl_r50_fpn_1x_coco.py",
    "atss/atss_r50_fpn_8xb8-amp-lsj-200e_coco.py",
    "rpn/rpn_r50-caffe_fpn_1x_coco.py",
    "retinanet/retinanet_r50_fpn_90k_coco.py",
    "lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py",
    "cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py",
    "pascal_voc/retinanet_r50_fpn_1x_voc0712.py",
    "simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-scp-270k_coco.py",
    "sort/faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py",
)


def new_leaves(config: Mapping[str, Any], seen: set[tuple[str, str]]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    for key, value in leaves(config):
        kind = (pattern(config, key), repr(value))
        if kind not in seen:
            seen.add(kind)
            yield key, value


def test_every_setting_beside_the_model_has_its_effect_or_is_named() -> None:
    seen: set[tuple[str, str]] = set()
    for name in KINDS:
        config = read(f"mmdet::{name}")
        before = result(config)
        for key, value in new_leaves(config, seen):
            if key[0] != "model":
                assert silent(config, before, key, value) is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_setting_of_every_configuration_of_the_package_has_its_effect_or_is_named() -> None:
    seen: set[tuple[str, str]] = set()
    trained, told = 0, []
    for path in sorted(mmdet_live.CONFIGS.rglob("*.py")):
        config = plain(path)
        if config is None:
            continue
        fresh = list(new_leaves(config, seen))
        try:
            before = result(config)
        except UserError:
            seen.difference_update((pattern(config, key), repr(value)) for key, value in fresh)
            continue
        trained += 1
        told += [found for key, value in fresh if (found := silent(config, before, key, value))]
    assert not told
    assert trained >= 270
    assert len(seen) >= 1000


def plain(path: Path) -> dict[str, Any] | None:
    """What a file of the package holds, where its model is built."""
    if "_base_" in path.parts:
        return None
    try:
        config = read(path)
        parse(config)
    except UserError:
        return None
    return config
