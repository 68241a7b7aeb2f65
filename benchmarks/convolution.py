"""Convolutions alone, and their two gradients, against PyTorch (channels-last, float32), each side in its own process.

    python -m benchmarks.convolution
    python -m benchmarks.convolution --shapes "3x3 14" --forms

The ratio is PyTorch's time divided by ours: 1.0 is as fast, 0.5 takes twice as long. With `--forms` each form of ours
that can compute a part is timed, too, which is what `jaxft/models/layers/convolution_onednn.py` chooses by.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro

from benchmarks.report import Output, Report
from benchmarks.sides import Program, ours, theirs


class Shape(NamedTuple):
    """A convolution with square images and kernels and the padding that keeps the size."""

    size: int
    channels: int
    features: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        kind = "" if self.groups == 1 else f", {self.groups} groups"
        stride = f" / {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel} {self.size}{stride}, {self.channels} -> {self.features}{kind}"


# Of ResNets, EfficientNets, MobileNets, ResNeXt and RegNet, and ConvNeXt.
SHAPES = [
    Shape(224, 3, 64, 7, 2),
    Shape(56, 64, 64, 3),
    Shape(28, 128, 128, 3),
    Shape(14, 256, 256, 3),
    Shape(7, 512, 512, 3),
    Shape(56, 64, 128, 3, 2),
    Shape(14, 256, 512, 3, 2),
    Shape(56, 64, 256, 1),
    Shape(56, 256, 64, 1),
    Shape(14, 256, 1024, 1),
    Shape(56, 256, 512, 1, 2),
    Shape(224, 3, 32, 3, 2),
    Shape(112, 16, 96, 1),
    Shape(112, 32, 32, 3, 1, 32),
    Shape(112, 96, 96, 3, 2, 96),
    Shape(56, 144, 144, 3, 1, 144),
    Shape(28, 240, 240, 5, 1, 240),
    Shape(14, 480, 480, 3, 1, 480),
    Shape(28, 256, 256, 3, 1, 32),
    Shape(28, 104, 104, 3, 1, 13),
    Shape(56, 96, 96, 7, 1, 96),
]
PARTS = ("output", "input gradient", "kernel gradient")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times the output and both gradients of convolutions."""

    shapes: str = ""
    """Only those whose name has this in it."""
    batch: int = 16
    """Images."""
    rounds: int = 5
    """Timed runs of each program, in turn."""
    forms: bool = False
    """Also each form of ours."""
    json: Path | None = None
    """A file for all figures, written anew after each line."""


def forms(shape: Shape) -> tuple[str, ...]:
    """The forms of ours that can compute a shape."""
    if shape.groups > 1:
        return ("dense", "depthwise") if shape.groups == shape.channels else ("dense",)
    if shape.kernel == 1:
        return "dense", "pointwise"
    return ("dense", "winograd") if (shape.kernel, shape.stride) == (3, 1) else ("dense",)


def main() -> int:
    """Prints the table, and the median ratios; 1 where something could not be measured."""
    options = tyro.cli(Options)
    report = Report("convolution", options, Output(torch="eager", json=options.json), unit="ms")
    report.head(f"batch {options.batch}, {options.rounds} rounds")
    for shape in (shape for shape in SHAPES if options.shapes in shape.name):
        for part in PARTS:
            given = {"shape": list(shape), "batch": options.batch, "part": PARTS.index(part)}
            other = theirs("benchmarks.their_convolution:part_of", **given)
            for form in ("", *(forms(shape) if options.forms else ())):
                mine: Program = ours("benchmarks.our_convolution:part_of", **given, form=form)
                report.compare(f"{shape.name}{f', {form}' if form else ''}", part, mine, other, options.rounds)
    report.medians()
    return int(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
