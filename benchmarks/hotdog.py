"""Fine-tuned against from scratch on real photos, three seeds each, next to the same recipe in PyTorch.

    python -m benchmarks.hotdog --root ../shared/data/hotdog

The network is EfficientNet-Lite0, whose ImageNet weights an installed package carries; the recipe that of
`configs/hotdog_lite0.py`, from scratch with every parameter trained at one rate. PyTorch runs the reference model of
`efficientnet-lite-pytorch` with torchvision's transforms.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.sides import Program, SideError, interleaved

CONFIGS = {"ImageNet": Path("configs/hotdog_lite0.py"), "random": Path("configs/hotdog_lite0_scratch.py")}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains twelve networks by default, which takes long on two cores."""

    root: str = "data/hotdog"
    """The folder with train/ and test/."""
    seeds: int = 3
    """Runs of each kind."""
    epochs: int = 5
    """Passes over the training photos."""
    programs: tuple[Literal["jaxft", "PyTorch"], ...] = ("jaxft", "PyTorch")
    """Whose training to run."""
    weights: tuple[Literal["ImageNet", "random"], ...] = ("ImageNet", "random")
    """The first weights to start from."""
    json: Path | None = None
    """A file for all figures."""


@dataclass(frozen=True)
class Result:
    """Test accuracy after the last and after the best epoch, and the minutes of the whole run."""

    last: float
    best: float
    minutes: float


def with_jaxft(file: Path, options: Options, seed: int) -> Result:
    """The training command in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        command = [sys.executable, "-m", "jaxft.train", "--config", str(file), "--workdir", str(folder)]
        command += ["--data.root", options.root, "--seed", str(seed), "--phases.0.epochs", str(options.epochs)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        minutes = (time.perf_counter() - start) / 60
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracies = [line["accuracy"] for line in lines if line["split"] == "validation"]
    return Result(accuracies[-1], max(accuracies), minutes)


def with_pytorch(file: Path, options: Options, seed: int) -> Result:
    """The same recipe, read from the same configuration, in a process of its own with its default allocator.

    Raises:
        SideError: it fails.
    """
    given = {"file": str(file), "root": options.root, "seed": seed, "epochs": options.epochs}
    environment = {"GLIBC_TUNABLES": None, "JAX_PLATFORMS": "cpu"}  # JAX is there for names alone
    program = Program("benchmarks.their_hotdog:training", given, environment)
    outcome = interleaved({"PyTorch": program}, 1)["PyTorch"]
    if isinstance(outcome, SideError):
        raise outcome
    return Result(**outcome.values[0])


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    table = Table("program", "first weights", "last epoch", "median", "best epoch", "median", "minutes a run")
    runs: dict[str, Callable[[Path, Options, int], Result]] = {"jaxft": with_jaxft, "PyTorch": with_pytorch}
    found: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for weights in options.weights:
        for seed in range(options.seeds):
            for program in options.programs:  # in turn, so that both meet the same machine
                result = runs[program](CONFIGS[weights], options, seed)
                print(f"{program}, {weights} weights, seed {seed}: {result}", flush=True)
                found[program, weights].append(result)
                write(options, found)
    for names, results in sorted(found.items()):
        row: list[str] = [*names]
        for values in ([r.last for r in results], [r.best for r in results]):
            row += [" ".join(f"{value:.3f}" for value in values), f"{statistics.median(values):.3f}"]
        table.add_row(*row, f"{statistics.median(r.minutes for r in results):.1f}")
    Console().print(table)


def write(options: Options, found: dict[tuple[str, str], list[Result]]) -> None:
    """Writes all figures until now, if asked."""
    if options.json is not None:
        rows = [
            {"program": program, "weights": weights, "runs": [asdict(result) for result in results]}
            for (program, weights), results in found.items()
        ]
        content = {"benchmark": "hotdog", "options": asdict(options), "machine": machine(), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
