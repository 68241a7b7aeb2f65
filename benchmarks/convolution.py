"""Times every convolution of ResNet-18, ResNet-50 and EfficientNet-Lite0 against PyTorch (channels-last, float32).

    python benchmarks/convolution.py --batch 16

The two libraries take turns, and the fastest of several runs counts. A ratio is PyTorch's seconds over ours.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from jaxft.models.layers.convolution import conv


class Shape(NamedTuple):
    """A convolution with square images and kernels and the padding that keeps the size."""

    name: str
    size: int
    channels: int
    features: int
    kernel: int
    stride: int = 1
    groups: int = 1


SHAPES = [
    Shape("stem 7x7", 224, 3, 64, 7, 2),
    Shape("3x3", 56, 64, 64, 3),
    Shape("3x3", 28, 128, 128, 3),
    Shape("3x3", 14, 256, 256, 3),
    Shape("3x3", 7, 512, 512, 3),
    Shape("3x3", 56, 64, 128, 3, 2),
    Shape("3x3", 28, 128, 256, 3, 2),
    Shape("3x3", 14, 256, 512, 3, 2),
    Shape("1x1", 56, 64, 256, 1),
    Shape("1x1", 56, 256, 64, 1),
    Shape("1x1", 28, 512, 128, 1),
    Shape("1x1", 14, 256, 1024, 1),
    Shape("1x1", 7, 2048, 512, 1),
    Shape("1x1", 56, 256, 512, 1, 2),
    Shape("stem 3x3", 224, 3, 32, 3, 2),
    Shape("1x1", 112, 16, 96, 1),
    Shape("depthwise 3x3", 112, 32, 32, 3, 1, 32),
    Shape("depthwise 3x3", 112, 96, 96, 3, 2, 96),
    Shape("depthwise 3x3", 56, 144, 144, 3, 1, 144),
    Shape("depthwise 5x5", 56, 144, 144, 5, 2, 144),
    Shape("depthwise 5x5", 28, 240, 240, 5, 1, 240),
    Shape("depthwise 3x3", 14, 480, 480, 3, 1, 480),
    Shape("depthwise 5x5", 14, 672, 672, 5, 1, 672),
    Shape("depthwise 5x5", 7, 1152, 1152, 5, 1, 1152),
    Shape("grouped 3x3", 28, 256, 256, 3, 1, 32),
]

Run = Callable[[], Any]


def ours(shape: Shape, x: np.ndarray, kernel: np.ndarray, dy: np.ndarray) -> dict[str, Run]:
    """What to run, for the output and each gradient; arrays are NHWC and HWIO."""
    edge, stride = shape.kernel // 2, shape.stride

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        padding = ((edge, edge), (edge, edge))
        return conv(x, kernel, strides=(stride, stride), padding=padding, groups=shape.groups)

    steps = {
        "output": jax.jit(lambda x, kernel, dy: forward(x, kernel)),
        "dx": jax.jit(lambda x, kernel, dy: jax.vjp(forward, x, kernel)[1](dy)[0]),
        "dw": jax.jit(lambda x, kernel, dy: jax.vjp(forward, x, kernel)[1](dy)[1]),
    }
    arrays = [jax.device_put(array) for array in (x, kernel, dy)]
    return {name: partial(lambda step: step(*arrays).block_until_ready(), step) for name, step in steps.items()}


def theirs(shape: Shape, x: np.ndarray, kernel: np.ndarray, dy: np.ndarray) -> dict[str, Run]:
    """The same in PyTorch, on channels-last tensors."""
    edge, stride = shape.kernel // 2, shape.stride
    layout = torch.channels_last
    tx, tdy = (torch.from_numpy(array.transpose(0, 3, 1, 2)).contiguous(memory_format=layout) for array in (x, dy))
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1)).contiguous(memory_format=layout)
    options = [stride, stride], [edge, edge], [1, 1], False, [0, 0], shape.groups

    def backward(mask: list[bool]) -> Run:
        return lambda: torch.ops.aten.convolution_backward(tdy, tx, weight, None, *options, mask)

    def forward() -> torch.Tensor:
        return torch.nn.functional.conv2d(tx, weight, None, stride, edge, 1, shape.groups)

    return {"output": forward, "dx": backward([True, False, False]), "dw": backward([False, True, False])}


def alternate(first: Run, second: Run, seconds: float) -> tuple[float, float]:
    """The fastest run of each, the two taking turns for about so many seconds."""
    best = [float("inf"), float("inf")]
    for run in (first, second):
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, run in enumerate((first, second)):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best[0], best[1]


def main(batch: int = 16, seconds: float = 1.0, threads: int = 2) -> None:
    """Prints the table.

    Args:
        batch: images in a batch.
        seconds: time to spend on each cell.
        threads: threads that PyTorch may use; XLA takes all cores.
    """
    torch.set_num_threads(threads)
    table = Table("convolution", "images", "output, ms", "ratio", "dx, ms", "ratio", "dw, ms", "ratio")
    random = np.random.default_rng(0)
    for shape in SHAPES:
        out = -(-shape.size // shape.stride)
        x = random.standard_normal((batch, shape.size, shape.size, shape.channels), np.float32)
        kernel = random.standard_normal(
            (shape.kernel, shape.kernel, shape.channels // shape.groups, shape.features), np.float32
        )
        dy = random.standard_normal((batch, out, out, shape.features), np.float32)
        mine, reference = ours(shape, x, kernel, dy), theirs(shape, x, kernel, dy)
        cells = []
        for what in mine:
            our_time, their_time = alternate(mine[what], reference[what], seconds)
            cells += [f"{1e3 * our_time:.1f}", f"{their_time / our_time:.2f}"]
        stride = f" / {shape.stride}" if shape.stride > 1 else ""
        table.add_row(f"{shape.name}{stride}, {shape.channels} -> {shape.features}", f"{shape.size}²", *cells)
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
