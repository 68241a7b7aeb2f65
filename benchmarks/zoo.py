"""Training and evaluation steps of one model a family against PyTorch (channels-last, float32), in two processes.

    python -m benchmarks.zoo

The ratio is PyTorch's seconds divided by ours: 1.0 is as fast, 0.5 takes twice as long. Images have the size that the
model's published weights were trained for.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from benchmarks.report import Output, Report
from benchmarks.steps import compare

SIZES = {
    "alexnet": 224,
    "convnext_tiny": 224,
    "densenet121": 224,
    "efficientnet_b0": 224,
    "efficientnet_lite0": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet1_0": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_large": 224,
    "regnet_y_400mf": 224,
    "resnet50": 224,
    "resnext50_32x4d": 224,
    "shufflenet_v2_x1_0": 224,
    "squeezenet1_1": 224,
    "swin_t": 224,
    "swin_v2_t": 256,
    "vgg11": 224,
    "vit_b_16": 224,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times steps of training and evaluation of one model a family."""

    models: tuple[str, ...] = tuple(SIZES)
    """Names of models."""
    batch: int = 16
    """Images a step."""
    rounds: int = 3
    """Timed runs of each program, in turn."""
    output: Annotated[Output, tyro.conf.arg(name="")] = field(default_factory=Output)


def main() -> int:
    """Prints the table, and the median ratios; 1 where something could not be measured."""
    options = tyro.cli(Options)
    report = Report("zoo", options, options.output)
    report.head(f"batch {options.batch}, {options.rounds} rounds")
    for name in options.models:
        compare(report, options, name, SIZES.get(name, 224))
    report.medians()
    return int(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
