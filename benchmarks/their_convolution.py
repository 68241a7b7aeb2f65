"""PyTorch's convolution and its gradients, each prepared to be timed."""

import torch

from benchmarks.batches import convolution
from benchmarks.their_steps import Step


def part_of(shape: list[int], batch: int, part: int, compiled: bool) -> Step:
    """The output (0), input gradient (1) or kernel gradient (2), on channels-last tensors."""
    _, _, _, kernel, stride, groups = shape
    edge, layout = kernel // 2, torch.channels_last
    x, weight, dy = (torch.from_numpy(array) for array in convolution(shape, batch))
    x, dy = (array.permute(0, 3, 1, 2).contiguous(memory_format=layout) for array in (x, dy))
    weight = weight.permute(3, 2, 0, 1).contiguous(memory_format=layout)
    options = [stride, stride], [edge, edge], [1, 1], False, [0, 0], groups
    wanted = [part == 1, part == 2, False]

    def output() -> None:
        torch.nn.functional.conv2d(x, weight, None, stride, edge, 1, groups)

    def gradient() -> None:
        torch.ops.aten.convolution_backward(dy, x, weight, None, *options, wanted)

    return gradient if part else output
