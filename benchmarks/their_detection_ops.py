"""torchvision's RoIAlign and NMS alone, each prepared to be timed."""

from collections.abc import Callable

import numpy as np
import torch
import torchvision.ops

from benchmarks import rois as examples

Step = Callable[[], None]


def pooling(count: int, channels: int, gradient: bool, compiled: bool) -> Step:
    """RoIAlign of so many rois, level by level, with the gradient of the maps if asked."""
    del compiled  # the operator is one kernel either way
    rois = examples.spread(count)
    level = examples.level_of(rois)
    maps = [torch.from_numpy(one).permute(0, 3, 1, 2).contiguous() for one in examples.pyramid(channels)]
    dy = torch.from_numpy(examples.pooled_gradient(count, channels)).permute(0, 3, 1, 2).contiguous()
    placed = torch.from_numpy(np.concatenate([examples.image_of(count)[:, None], rois], 1).astype(np.float32))
    rows = [torch.from_numpy(np.flatnonzero(level == index)) for index in range(len(maps))]

    def pooled() -> torch.Tensor:
        out = torch.zeros(count, channels, examples.BINS, examples.BINS)
        for own, one, stride in zip(rows, maps, examples.STRIDES, strict=True):
            out[own] = torchvision.ops.roi_align(one, placed[own], examples.BINS, 1 / stride, -1, True)
        return out

    def forward() -> None:
        with torch.no_grad():
            pooled()

    def both() -> None:
        for one in maps:
            one.requires_grad_().grad = None
        pooled().backward(dy)

    return both if gradient else forward


def suppression(count: int, clustered: bool, compiled: bool) -> Step:
    """NMS of so many boxes of one group."""
    del compiled
    boxes, scores = map(torch.from_numpy, examples.proposals(count, clustered))

    def run() -> None:
        torchvision.ops.nms(boxes, scores, examples.IOU)[: examples.KEPT]

    return run
