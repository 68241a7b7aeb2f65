"""New classes without forgetting the old: a detector of blood cells learns platelets, with its teacher and without.

    python -m benchmarks.incremental --root ../shared/data/bccd --seeds 0 1 2

Stages are those of `configs/gfl_lite0_bccd_cells.py` and `configs/gfl_lite0_bccd_platelets.py`. All figures are of the
test photos: mAP at an overlap of a half, of old and of new classes. What is forgotten is what the first stage's model
has more. A run that is there already is taken as it is.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

FIRST, SECOND = "gfl_lite0_bccd_cells", "gfl_lite0_bccd_platelets"
WAYS = {"with its teacher": 1.0, "without": 0.0}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Takes about a quarter of an hour a seed on two cores."""

    root: str = "data/bccd"
    """The folder with JPEGImages and annotations."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One of each run a seed."""
    runs: Path = Path("runs/incremental")
    """Where the runs are kept."""
    json: Path | None = None
    """A file for all figures."""


@dataclass(frozen=True)
class Row:
    """The figures of a run on the test photos, 0..1."""

    seed: int
    way: str
    old: float
    new: float | None


def trained(config: str, run: Path, options: Options, seed: int, *changes: str) -> None:
    """Trains a run, unless it is there to its end."""
    command = [sys.executable, "-m", "jaxft.train", "--config", f"configs/{config}.py", "--workdir", str(run)]
    command += ["--data.root", options.root, "--seed", str(seed), "--evaluate-every", "4", *changes]
    subprocess.run([*command, *(["--resume"] if run.exists() else [])], check=True)


def judged(run: Path, root: str) -> dict[str, float]:
    """The metrics of a run's last model on the test photos."""
    command = [sys.executable, "-m", "jaxft.evaluate", "--run", str(run), "--split", "test", "--checkpoint", "last"]
    found = subprocess.run([*command, "--root", root, "--json"], check=True, capture_output=True, text=True)
    metrics: dict[str, float] = json.loads(found.stdout)["metrics"]
    return metrics


def measured(options: Options, seed: int) -> list[Row]:
    """Both stages of a seed."""
    first = options.runs / f"cells-{seed}"
    trained(FIRST, first, options, seed)
    rows = [Row(seed, "red and white cells alone", judged(first, options.root)["bbox_mAP_50"], None)]
    for way, weight in WAYS.items():
        run = options.runs / f"platelets-{weight:g}-{seed}"
        changes = ["--task.incremental.teacher", f"run://{first}#last", "--task.incremental.weight", str(weight)]
        trained(SECOND, run, options, seed, *changes)
        metrics = judged(run, options.root)
        rows.append(Row(seed, way, metrics["old/bbox_mAP_50"], metrics["new/bbox_mAP_50"]))
    return rows


def main() -> None:
    """The command."""
    options = tyro.cli(Options)
    table = Table("seed", "second stage", "old classes' mAP_50", "forgotten", "platelets' mAP_50")
    rows = [row for seed in options.seeds for row in measured(options, seed)]
    before = {row.seed: row.old for row in rows if row.new is None}
    for row in rows:
        forgotten = "" if row.new is None else f"{100 * (before[row.seed] - row.old):.1f}"
        new = "" if row.new is None else f"{100 * row.new:.1f}"
        table.add_row(str(row.seed), row.way, f"{100 * row.old:.1f}", forgotten, new)
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
