"""Training and inference steps of detectors against torchvision's, each side in its own process.

    python -m benchmarks.detectors

The ratio is torchvision's seconds divided by ours: 1.0 is as fast, 0.5 takes twice as long. Both sides have the same
weights, the same photos (of noise) and the same objects, and the settings that torchvision trains with: proposals,
samples, losses and non-maximum suppression are all part of a step. The arithmetic is float32 on both sides, on the
device that there is.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.report import Output, Report
from benchmarks.sides import once, ours, theirs


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times steps of training and inference of torchvision's detectors."""

    models: tuple[str, ...] = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
    """Names of detectors."""
    batch: int = 2
    """Photos a step."""
    height: int = 320
    """Of the photos, pixels; a multiple of 32."""
    width: int = 416
    """Of the photos, pixels; a multiple of 32."""
    rounds: int = 3
    """Timed runs of each program, in turn."""
    output: Annotated[Output, tyro.conf.arg(name="")] = field(default_factory=Output)


def main() -> int:
    """Prints the table; 1 where something could not be measured."""
    options = tyro.cli(Options)
    report = Report("detectors", options, options.output)
    report.head(f"{options.batch} photos of {options.height} x {options.width}, {options.rounds} rounds", "torchvision")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            case = {"model": name, "height": options.height, "width": options.width}
            case["file"] = str(Path(folder) / f"{name}.pth")
            once("benchmarks.their_detectors:save_weights", **case)
            case["batch"] = options.batch
            for step in ("training", "inference"):
                reference = theirs(f"benchmarks.their_detectors:{step}", options.output.torch, **case)
                report.compare(name, step, ours(f"benchmarks.our_detectors:{step}", **case), reference, options.rounds)
    return int(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
