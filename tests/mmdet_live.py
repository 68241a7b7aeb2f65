"""Live MMDetection on torchvision's operators, for tests: `mmcv-lite` ships no compiled `mmcv.ops`.

Import this module before anything of mmdet. `config(NAME)` reads a configuration of the package, `build(...)` makes
PyTorch's detector from it without drawing or downloading weights, `samples(...)` the ground truth that its `loss`
takes.
"""

import contextlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.ops
from torch import Tensor, nn


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what the two packages warn about under newer versions of PyTorch and setuptools."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _size(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: Any,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    pool_mode: str = "avg",
    aligned: bool = True,
) -> Tensor:
    """`mmcv.ops.roi_align` with average pooling; a sampling ratio of 0 is torchvision's -1."""
    assert pool_mode == "avg"
    return torchvision.ops.roi_align(
        input, rois.to(input.dtype), _size(output_size), spatial_scale, sampling_ratio or -1, aligned
    )


class RoIAlign(nn.Module):
    """`mmcv.ops.RoIAlign`."""

    def __init__(
        self, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = 0, aligned: bool = True, **_: Any
    ) -> None:
        super().__init__()
        self.output_size, self.spatial_scale = _size(output_size), float(spatial_scale)
        self.sampling_ratio, self.aligned = int(sampling_ratio), aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, "avg", self.aligned)


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0.0,
    max_num: int = -1,
) -> tuple[Tensor, Tensor]:
    """`mmcv.ops.nms`: the rows `[K, 5]` of boxes with scores that are kept, highest first, and their indices."""
    assert offset == 0
    good = torch.nonzero(scores > score_threshold)[:, 0] if score_threshold > 0 else torch.arange(len(scores))
    keep = good[torchvision.ops.nms(boxes[good], scores[good], iou_threshold)]
    keep = keep[:max_num] if max_num > 0 else keep
    return torch.cat([boxes[keep], scores[keep, None]], 1), keep


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: Mapping[str, Any] | None, class_agnostic: bool = False
) -> tuple[Tensor, Tensor]:
    """`mmcv.ops.batched_nms` for `type="nms"`: suppression within each group, or across all where class-agnostic."""
    settings = dict(nms_cfg) if nms_cfg is not None else None
    if settings is None:
        keep = scores.sort(descending=True)[1]
        return torch.cat([boxes[keep], scores[keep, None]], 1), keep
    class_agnostic = settings.pop("class_agnostic", class_agnostic)
    assert settings.pop("type", "nms") == "nms"
    settings.pop("split_thr", None)
    limit, threshold = settings.pop("max_num", -1), settings.pop("iou_threshold")
    assert not settings, settings
    groups = torch.zeros_like(idxs) if class_agnostic else idxs
    keep = torchvision.ops.batched_nms(boxes, scores, groups, threshold)
    keep = keep[:limit] if limit > 0 else keep
    return torch.cat([boxes[keep], scores[keep, None]], 1), keep


class _Operators(types.ModuleType):
    """`mmcv.ops`: the four operators above; any other class is an empty module, any other function raises."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper():
            return type(name, (nn.Module,), {"__init__": _empty})

        def missing(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"mmcv.ops.{name} is not in this stand-in")

        return missing


def _empty(self: nn.Module, *_: Any, **__: Any) -> None:
    nn.Module.__init__(self)


def _register() -> None:
    if "mmcv.ops" in sys.modules:
        return
    import mmcv

    pieces = {"RoIAlign": RoIAlign, "roi_align": roi_align, "nms": nms, "batched_nms": batched_nms}
    operators = _Operators("mmcv.ops")
    operators.__path__ = []
    mmcv.ops = operators
    for name in (
        "", ".nms", ".roi_align", ".merge_cells", ".point_sample", ".carafe", ".modulated_deform_conv", ".deform_conv",
        ".multi_scale_deform_attn",
    ):  # fmt: skip
        module = operators if not name else _Operators(f"mmcv.ops{name}")
        vars(module).update(pieces)
        sys.modules[f"mmcv.ops{name}"] = module
        if name:
            # The functions of the same names stay reachable at `mmcv.ops`, as they do in mmcv itself.
            vars(operators).setdefault(name[1:], module)


with quiet():
    _register()
    import mmdet.models
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.config import Config, ConfigDict
    from mmengine.registry import init_default_scope
    from mmengine.structures import InstanceData

    init_default_scope("mmdet")
    # mmcv's own class of that name is compiled; it has the same parameters.
    MODELS.register_module("MMSyncBN", module=nn.SyncBatchNorm)

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"


@cache
def _named() -> dict[str, Path]:
    return {path.name: path for path in sorted(CONFIGS.rglob("*.py"))}


def config_path(name: str) -> Path:
    """The file of the package with that name (`faster-rcnn_r50_fpn_1x_coco.py`), or relative path, or any path."""
    for path in (CONFIGS / name, Path(name)):
        if path.is_file():
            return path
    return _named()[name]


def config(name: str) -> Config:
    """A whole configuration of the package, `_base_` resolved."""
    with quiet():
        return Config.fromfile(str(config_path(name)))


def build(model: str | Mapping[str, Any], change: Callable[[Any], None] | None = None) -> nn.Module:
    """MMDetection's detector on the CPU, in training mode, weights as its constructor draws them.

    Args:
        model: a configuration's name (see `config_path`) or its `model` dict.
        change: edits the `model` dict in place before the detector is built.
    """
    settings = config(model).model if isinstance(model, str) else ConfigDict(model).copy()
    if change is not None:
        change(settings)
    with quiet():
        return MODELS.build(settings)


def samples(
    sizes: Sequence[tuple[int, int]],
    pad_shape: tuple[int, int],
    boxes: Sequence[np.ndarray] = (),
    labels: Sequence[np.ndarray] = (),
    masks: Sequence[np.ndarray] = (),
    ignored: Sequence[np.ndarray] = (),
) -> list[Any]:
    """What MMDetection's `loss` and `predict` take beside the images, one entry an image.

    Args:
        sizes: height and width of each photo without its padding.
        pad_shape: height and width of the batch's images.
        boxes, labels, ignored: per image `[G, 4]` xyxy, `[G]`, and `[I, 4]` for crowds.
        masks: per image `[G, height, width]` of 0 and 1 over the padded image.
    """
    result = []
    for index, size in enumerate(sizes):
        sample = DetDataSample(
            metainfo={
                "img_shape": size,
                "ori_shape": size,
                "pad_shape": pad_shape,
                "batch_input_shape": pad_shape,
                "scale_factor": (1.0, 1.0),
            }
        )
        instances, crowds = InstanceData(), InstanceData()
        if boxes:
            instances.bboxes = torch.from_numpy(np.asarray(boxes[index]).reshape(-1, 4))
            instances.labels = torch.from_numpy(np.asarray(labels[index]).astype(np.int64).reshape(-1))
        if masks:
            instances.masks = BitmapMasks(np.asarray(masks[index]).reshape(-1, *pad_shape), *pad_shape)
        rows = ignored[index] if ignored else np.zeros((0, 4), np.float32)
        crowds.bboxes = torch.from_numpy(np.asarray(rows).reshape(-1, 4))
        sample.gt_instances, sample.ignored_instances = instances, crowds
        result.append(sample)
    return result
