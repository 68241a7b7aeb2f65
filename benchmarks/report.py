"""The table of a benchmark, a line as soon as it is measured, and the same as JSON."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import cores, machine
from benchmarks.sides import Program, SideError, Timing, Torch, interleaved

WIDTHS = (30, 14, 36, 30, 6)
Outcomes = Mapping[str, Timing | SideError]


@dataclass(frozen=True, kw_only=True)
class Output:
    """What benchmarks have in common on the command line."""

    torch: Torch = "best"
    """How PyTorch runs: eager, compiled by torch.compile, or both in the same rounds, of which the faster counts."""
    json: Path | None = None
    """A file for all figures, written anew after each line."""


class Report:
    """Prints lines, and writes them.

    Args:
        name: of the benchmark.
        options: its command line, a dataclass of plain values.
        output: where to.
        unit: of the cells; `cell` knows s and ms.
    """

    def __init__(self, name: str, options: Any, output: Output, unit: str = "s") -> None:
        self._output, self._unit = output, unit
        self._content: dict[str, Any] = {"benchmark": name, "options": asdict(options), "machine": machine()}
        self._content |= {"rows": [], "median_ratios": {}}
        self._ratios: dict[str, list[float]] = defaultdict(list)
        self.failed = False

    def head(self, title: str, theirs: str = "PyTorch") -> None:
        """Prints what the table is about and the names of its columns."""
        print(f"{title}; {self._content['machine']['cpu']}, {cores()} cores")
        print(f"median (lowest to highest), {self._unit}")
        _line("", "", theirs, "jaxft", "ratio", "memory, MB")

    def compare(self, what: str, step: str, ours: Program, theirs: Mapping[str, Program], rounds: int) -> None:
        """Measures a program beside the same in PyTorch, whose fastest counts, and adds a line."""
        outcomes = interleaved({**theirs, "jaxft": ours}, rounds, told=waiting)
        self.beside(what, step, outcomes, "jaxft", fastest(outcomes, theirs))

    def beside(self, what: str, step: str, outcomes: Outcomes, ours: str, theirs: str) -> None:
        """Adds the line of two of the programs that were measured together."""
        mine, other = outcomes[ours], outcomes[theirs]
        ratio = None
        if isinstance(mine, Timing) and isinstance(other, Timing):
            ratio = other.median / mine.median
        cells = f"{self.cell(other)} {theirs}", self.cell(mine)
        self.add(what, step, cells, ratio, outcomes, memory(other, mine), compared=(theirs, ours))

    def add(
        self,
        what: str,
        step: str,
        cells: tuple[str, str],
        ratio: float | None,
        outcomes: Outcomes,
        last: str = "",
        **facts: Any,
    ) -> None:
        """Adds a line; `outcomes` are all programs that have a part in it, and `facts` go to the file only."""
        waiting("")
        _line(what, step, *cells, "" if ratio is None else f"{ratio:.2f}", last)
        for outcome in outcomes.values():
            if isinstance(outcome, SideError):
                self.failed = True
                print(f"    {outcome}")
        if ratio is not None:
            self._ratios[step].append(ratio)
        programs = {name: plain(outcome) for name, outcome in outcomes.items()}
        row = {"what": what, "step": step, "ratio": ratio, "programs": programs, **facts}
        self._content["rows"].append(row)
        self._content["median_ratios"] = {step: median(ratios) for step, ratios in self._ratios.items()}
        self.write()

    def skip(self, what: str, why: str) -> None:
        """Says that something was not measured."""
        waiting("")
        print(f"{what}: skipped; {why}", flush=True)
        self.failed = True
        self._content["rows"].append({"what": what, "skipped": why})
        self.write()

    def medians(self) -> None:
        """Prints the median ratio of each step, and the lowest."""
        for step, ratios in self._ratios.items():
            _line("median (lowest) of all", step, "", "", f"{median(ratios):.2f}", f"({min(ratios):.2f})")

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        if self._output.json is not None:
            draft = self._output.json.with_suffix(".part")
            draft.write_text(json.dumps(self._content, indent=1, default=_plain) + "\n")
            draft.replace(self._output.json)

    def cell(self, outcome: Timing | SideError) -> str:
        """Median and spread."""
        if isinstance(outcome, SideError):
            return "failed"
        factor, digits = (1000, 1) if self._unit == "ms" else (1, 3)
        numbers = (outcome.median, min(outcome.seconds), max(outcome.seconds))
        middle, low, high = (f"{seconds * factor:.{digits}f}" for seconds in numbers)
        return f"{middle} ({low} to {high})"


def fastest(outcomes: Outcomes, names: Mapping[str, object]) -> str:
    """Which of the named programs has the lowest median; the first if none ran."""
    seconds = {name: timing.median for name in names if isinstance(timing := outcomes[name], Timing)}
    return min(seconds, key=seconds.__getitem__) if seconds else next(iter(names))


def memory(*outcomes: Timing | SideError) -> str:
    """The highest memory of each."""
    known = [f"{o.peak_bytes / 1e6:.0f}" if isinstance(o, Timing) else "?" for o in outcomes]
    return " / ".join(known)


def plain(outcome: Timing | SideError) -> dict[str, Any]:
    """An outcome as plain values."""
    if isinstance(outcome, SideError):
        return {"error": str(outcome)}
    return {"median": outcome.median, "lowest": min(outcome.seconds), "highest": max(outcome.seconds)} | asdict(outcome)


def waiting(line: str) -> None:
    """Shows on a terminal what goes on, in the place of the line before."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _line(*cells: str) -> None:
    *first, last = cells
    print(" ".join(f"{cell:<{width}}" for cell, width in zip(first, WIDTHS, strict=True)), last, flush=True)


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
