"""RoIAlign and NMS alone against `torchvision.ops` on the CPU, each side in its own process.

    python -m benchmarks.detection_ops

The ratio is torchvision's time divided by ours: 1.0 is as fast, 0.5 takes twice as long. RoIAlign reads a pyramid of
four levels under 2 images of 320 x 416 into 7 x 7 bins, adaptive samples, `aligned`, as Faster R-CNN's training step
does; its gradient is that of the maps. Boxes are spread by size and shape like anchors after regression; NMS keeps the
best 1000, as the proposals of one image.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.report import Output, Report
from benchmarks.sides import ours, theirs


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
    json: Path | None = None
    """A file for all figures, written anew after each line."""


def cases(options: Options) -> list[tuple[str, str, str, dict[str, int]]]:
    """What is measured: its name, its kind, the function, and what that is given."""
    pooling = [
        (f"RoIAlign, {count} rois", step, "pooling", {"count": count, "channels": options.channels, "gradient": wanted})
        for count in options.rois
        for step, wanted in (("forward", False), ("with gradient", True))
    ]
    suppression = [
        (f"NMS, {count} boxes", kind, "suppression", {"count": count, "clustered": clustered})
        for count in options.boxes
        for kind, clustered in (("spread", False), ("in clusters", True))
    ]
    return [*pooling, *suppression]


def main() -> int:
    """Prints the table, and the median ratios; 1 where something could not be measured."""
    options = tyro.cli(Options)
    report = Report("detection_ops", options, Output(torch="eager", json=options.json), unit="ms")
    report.head(f"{options.rounds} rounds", "torchvision")
    for what, kind, function, given in cases(options):
        mine = ours(f"benchmarks.our_detection_ops:{function}", **given)
        report.compare(what, kind, mine, theirs(f"benchmarks.their_detection_ops:{function}", **given), options.rounds)
    report.medians()
    return int(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
