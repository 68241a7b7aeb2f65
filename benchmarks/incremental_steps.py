"""What a teacher costs: steps of the second stage of `benchmarks.incremental`, with it and without.

    python -m benchmarks.incremental_steps --root ../shared/data/bccd --teacher run://runs/incremental/cells-0#last

Three programs run in turn, each in a process of its own: the training step without a teacher, the teacher's forward
pass alone, and the step with the teacher. A step with the teacher should take no more than that forward pass and 1.1
times the step without.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.sides import SideError, Timing, interleaved, ours


@dataclass(frozen=True, kw_only=True)
class Options:
    """Takes a few minutes on two cores, most of them to compile."""

    root: str = "data/bccd"
    """The folder with JPEGImages and annotations."""
    teacher: str = "run://runs/incremental/cells-0#last"
    """The old detector; one that `benchmarks.incremental` has trained."""
    rounds: int = 9
    """Turns of each program."""
    json: Path | None = None
    """A file for all figures."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options)
    given = {"root": options.root, "teacher": options.teacher}
    programs = {
        "step without a teacher": ours("benchmarks.our_incremental:training", weight=0.0, **given),
        "teacher's forward pass": ours("benchmarks.our_incremental:forward", **given),
        "step with the teacher": ours("benchmarks.our_incremental:training", weight=1.0, **given),
    }
    found = dict[str, Timing]()
    for name, timing in interleaved(programs, options.rounds).items():
        if isinstance(timing, SideError):
            raise timing
        found[name] = timing
    table = Table("", "seconds (median)", "processor seconds (median)")
    for name, timing in found.items():
        table.add_row(name, f"{timing.median:.4f}", f"{median(timing.cpu):.4f}")
    console = Console()
    console.print(table)
    plain, forward, taught = (timing.median for timing in found.values())
    console.print(
        f"Beyond the forward pass the step with the teacher takes {(taught - forward) / plain:.2f} times the step "
        f"without, in all {taught / plain:.2f} times.",
        highlight=False,
    )
    if options.json is not None:
        content = {
            "benchmark": "incremental_steps",
            "options": asdict(options),
            "machine": machine(),
            "seconds": {name: timing.seconds for name, timing in found.items()},
        }
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
