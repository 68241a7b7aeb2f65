"""Epochs of a head alone: from stored features, next to the frozen network in PyTorch.

    python -m benchmarks.features --root ../shared/data/hotdog

The recipe is that of `configs/hotdog_features.py`. An epoch is one over the training photos and one evaluation of the
test photos on both sides. Ours is the difference between runs of few and of many epochs, which find the features in the
cache; what the first run takes, features and all, stands beside it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.sides import Program, SideError, interleaved

CONFIG = Path("configs/hotdog_features.py")
FEW = 2  # epochs


@dataclass(frozen=True, kw_only=True)
class Options:
    """Takes some minutes on two cores."""

    root: str = "data/hotdog"
    """The folder with train/ and test/."""
    epochs: int = 42
    """Of the long run."""
    turns: int = 3
    """Times that each side is measured."""
    json: Path | None = None
    """A file for all figures."""


def training(file: str, root: str, epochs: int, cache: str) -> float:
    """Seconds of a whole run from stored features, an evaluation each epoch."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "jaxft.train", "--config", file, "--workdir", f"{scratch}/run"]
        command += ["--data.root", root, "--phases.0.epochs", str(epochs), "--evaluate-every", "1"]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"JAXFT_CACHE": cache})
        return time.perf_counter() - began


def main() -> None:
    """The command."""
    options = tyro.cli(Options)
    given = {"file": str(CONFIG), "root": options.root, "seed": 0, "epochs": 1}
    (timing,) = interleaved({"": Program("benchmarks.their_hotdog:training_once", given)}, options.turns).values()
    if isinstance(timing, SideError):
        raise timing
    theirs = timing.median
    with tempfile.TemporaryDirectory() as cache:
        first = training(str(CONFIG), options.root, FEW, cache)
        pairs = [
            [training(str(CONFIG), options.root, epochs, cache) for epochs in (FEW, options.epochs)]
            for _ in range(options.turns)
        ]
    ours = statistics.median((many - few) / (options.epochs - FEW) for few, many in pairs)
    found = {"theirs": theirs, "ours": ours, "ratio": theirs / ours, "first_run": first, "later_run": pairs[0][0]}
    Console().print(
        f"An epoch: {ours:.2f} s from stored features, {theirs:.1f} s in PyTorch, {theirs / ours:.0f} times as many "
        f"epochs a second; a run of {FEW} epochs {first:.0f} s with computing the features, {pairs[0][0]:.0f} s later.",
        highlight=False,
    )
    if options.json is not None:
        content = {"benchmark": "features", "options": asdict(options), "machine": machine(), "seconds": found}
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
