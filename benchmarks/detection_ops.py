"""RoIAlign and NMS alone against `torchvision.ops` on the CPU in the same run.

    python -m benchmarks.detection_ops

The ratio is torchvision's seconds divided by ours: 1.0 is as fast, 0.5 takes twice as long. RoIAlign reads a pyramid of
four levels under 2 images of 320 x 416 into 7 x 7 bins, adaptive samples, `aligned`, as Faster R-CNN's training step
does; its gradient is that of the maps. Boxes are spread by size and shape like anchors after regression; NMS keeps the
best 1000, as the proposals of one image.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision.ops
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.timing import interleaved
from jaxft.detection.nms import nms
from jaxft.detection.roi_align import assign_levels, roi_align

HEIGHT, WIDTH, STRIDES = 320, 416, (4, 8, 16, 32)
Programs = dict[str, Callable[[], None]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times RoIAlign (forward, and forward with gradient) and NMS."""

    rois: tuple[int, ...] = (256, 1024)
    """Rois of both images together."""
    channels: int = 256
    """Channels of the maps."""
    boxes: tuple[int, ...] = (1000, 2000, 5000)
    """Boxes given to NMS."""
    rounds: int = 5
    """Timed runs of each program, in turn."""


def boxes(count: int, seed: int = 0) -> np.ndarray:
    """`[count, 4]`: sides of 16 to 300 pixels, elongated by up to about three, cut to the image."""
    random = np.random.default_rng(seed)
    side = np.exp(random.uniform(np.log(16), np.log(300), count))
    stretch = np.exp(random.normal(size=count) * 0.5)
    half = np.stack([side * stretch, side / stretch], 1) / 2
    center = random.uniform(0, 1, (count, 2)) * (WIDTH, HEIGHT)
    return np.concatenate([center - half, center + half], 1).clip(0, [WIDTH, HEIGHT] * 2).astype(np.float32)


def clusters(count: int) -> np.ndarray:
    """`[count, 4]`: 40 boxes a thing, moved by some pixels, as proposals overlap."""
    things = boxes(max(count // 40, 1), 1)
    noise = np.random.default_rng(2).normal(size=(count, 4)) * 8
    return (things[np.arange(count) % len(things)] + noise).astype(np.float32)


def pooling(count: int, channels: int) -> dict[str, Programs]:
    """RoIAlign of `count` rois on both sides, forward and with the gradient."""
    random, rois = np.random.default_rng(0), boxes(count)
    image = np.sort(random.integers(0, 2, count)).astype(np.int32)
    level = np.array(assign_levels(jnp.array(rois), len(STRIDES)))
    shapes = [(2, HEIGHT // stride, WIDTH // stride, channels) for stride in STRIDES]
    maps = tuple(jnp.array(random.normal(size=shape), jnp.float32) for shape in shapes)
    dy = jnp.array(random.normal(size=(count, 7, 7, channels)), jnp.float32)

    def pooled(maps: tuple[jax.Array, ...]) -> jax.Array:
        return roi_align(maps, jnp.array(rois), jnp.array(image), jnp.array(level), STRIDES, 7)

    forward = jax.jit(pooled)

    @jax.jit
    def both(maps: tuple[jax.Array, ...], dy: jax.Array) -> object:
        out, pull = jax.vjp(pooled, maps)
        return out, pull(dy)

    tensors = [torch.tensor(np.array(one)).permute(0, 3, 1, 2).contiguous().requires_grad_() for one in maps]
    placed = torch.tensor(np.concatenate([image[:, None], rois], 1).astype(np.float32))
    gradient = torch.tensor(np.array(dy)).permute(0, 3, 1, 2).contiguous()
    rows = [torch.tensor(np.flatnonzero(level == index)) for index in range(len(STRIDES))]

    def theirs() -> torch.Tensor:
        out = torch.zeros(count, channels, 7, 7)
        for own, tensor, stride in zip(rows, tensors, STRIDES, strict=True):
            out[own] = torchvision.ops.roi_align(tensor, placed[own], 7, 1 / stride, -1, True)
        return out

    @torch.no_grad()
    def their_forward() -> None:
        theirs()

    def their_both() -> None:
        for tensor in tensors:
            tensor.grad = None
        theirs().backward(gradient)

    return {
        "forward": {"theirs": their_forward, "ours": lambda: _wait(forward(maps))},
        "with gradient": {"theirs": their_both, "ours": lambda: _wait(both(maps, dy))},
    }


def suppression(count: int, boxes: np.ndarray) -> Programs:
    """NMS at an IoU of 0.7, one group, at most 1000 kept."""
    scores = np.random.default_rng(1).uniform(size=count).astype(np.float32)
    arrays = (jnp.array(boxes), jnp.array(scores), jnp.zeros(count, jnp.int32), jnp.ones(count, bool))
    ours = jax.jit(partial(nms, iou_threshold=0.7, max_output=1000))
    tensors = torch.tensor(boxes), torch.tensor(scores)

    def theirs() -> None:
        torchvision.ops.nms(*tensors, 0.7)[:1000]

    return {"theirs": theirs, "ours": lambda: _wait(ours(*arrays))}


def _wait(result: object) -> None:
    jax.block_until_ready(result)


def main() -> None:
    """Prints the table, and the median ratio."""
    options = tyro.cli(Options)
    programs = {}
    for count in options.rois:
        for step, both in pooling(count, options.channels).items():
            programs[f"RoIAlign, {count} rois, {step}"] = both
    for count in options.boxes:
        programs[f"NMS, {count} boxes spread"] = suppression(count, boxes(count))
        programs[f"NMS, {count} boxes in clusters"] = suppression(count, clusters(count))
    title = f"{torch.get_num_threads()} threads, median of {options.rounds}; milliseconds"
    table = Table("piece", "torchvision", "jaxft", "ratio", title=title)
    ratios = []
    for name, both in programs.items():
        seconds = interleaved(both, options.rounds)
        ratios.append(seconds["theirs"] / seconds["ours"])
        table.add_row(name, *(f"{seconds[side] * 1000:.1f}" for side in ("theirs", "ours")), f"{ratios[-1]:.2f}")
    table.add_row("median", "", "", f"{statistics.median(ratios):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
