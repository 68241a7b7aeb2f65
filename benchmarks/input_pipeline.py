"""How fast training photos are read: jaxft's loader beside PyTorch's `DataLoader` with torchvision's transforms.

    python -m benchmarks.input_pipeline --root FOLDER_WITH_ONE_SUBFOLDER_A_CLASS

Both read the same files, crop at random to 224 x 224, flip, and give batches. PyTorch's are normalized float32, jaxft's
are uint8, because jaxft normalizes on the device. Starting workers is not counted. "A CPU second" divides by the
processor time of all threads where everything runs in one process; it hardly depends on what else the machine does.
The ratios are of medians, ours to PyTorch's: 2.0 reads twice as many.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tyro

from benchmarks.report import Outcomes, Output, Report, waiting
from benchmarks.sides import Program, Timing, interleaved, ours, theirs


@dataclass(frozen=True, kw_only=True)
class Options:
    """Prints photos a second."""

    root: Path
    """Folder with one sub-folder of images for each class."""
    batch_size: int = 32
    """Photos in a batch."""
    batches: int = 60
    """How many batches are timed."""
    repeats: int = 3
    """How often each is timed, in turn."""
    workers: int = os.cpu_count() or 1
    """Worker processes, for PyTorch and for jaxft."""
    json: Path | None = None
    """A file for all figures."""


def programs(options: Options) -> dict[str, Program]:
    """Both loaders, with worker processes and without."""
    result = {}
    for workers in (0, options.workers):
        case = {
            "root": str(options.root),
            "batch_size": options.batch_size,
            "batches": options.batches,
            "workers": workers,
        }
        result[f"jaxft, {workers or 'no'} processes"] = ours("benchmarks.our_input:reading", **case)
        (reference,) = theirs("benchmarks.their_input:reading", **case).values()
        result[f"PyTorch, {workers or 'no'} processes"] = reference
    return result


def rates(outcomes: Outcomes, kind: str) -> dict[str, list[float]]:
    """Photos a second of each program that ran: of the wall's clock, or of the processor's."""
    return {name: [run[kind] for run in each.values] for name, each in outcomes.items() if isinstance(each, Timing)}


def cell(values: list[float]) -> str:
    """Median and spread."""
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> int:
    """Prints the table; 1 where something could not be measured."""
    options = tyro.cli(Options)
    report = Report("input_pipeline", options, Output(torch="eager", json=options.json), unit="photos a second")
    report.head(f"{options.batches} batches of {options.batch_size}, {options.repeats} rounds")
    outcomes = interleaved(programs(options), options.repeats, told=waiting)
    wall, cpu = rates(outcomes, "wall"), rates(outcomes, "cpu")
    for workers in ("no", str(options.workers)):
        names = (f"PyTorch, {workers} processes", f"jaxft, {workers} processes")
        compared: Mapping[str, Any] = {name: outcomes[name] for name in names}
        kinds = (("wall clock", wall), ("CPU second", cpu)) if workers == "no" else (("wall clock", wall),)
        for step, found in kinds:
            cells = tuple(cell(found[name]) if name in found else "failed" for name in names)
            ratio = median(found[names[1]]) / median(found[names[0]]) if set(names) <= set(found) else None
            report.add(f"{workers} worker processes", step, (cells[0], cells[1]), ratio, compared)
    return int(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
