"""What several processes cost: the same training in one process on all cores, and in one process a core.

    python -m benchmarks.processes

Both take the same steps on the same batches, and exchange gradients where they are several; they run in turn. The
ratio is the images a second of the processes divided by those of the one: 1.0 is as fast.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times a training as one process on all cores, and as one process a core."""

    model: str = "resnet18"
    """The network, trained as a whole from scratch on scikit-learn's digits."""
    crop: int = 64
    """Side of the images, pixels."""
    batch: int = 32
    """Images a step, in all processes together."""
    processes: int = 2
    """How many, a core each."""
    rounds: int = 3
    """Runs of each."""
    json: Path | None = None
    """A file for the figures."""


def speed(options: Options, cores: list[set[int]], folder: Path) -> float:
    """Images a second of a run of as many processes as there are sets of cores: the median of its lines of metrics, but
    for the first, in which it compiles."""
    with ExitStack() as ended:
        running = [
            ended.enter_context(
                subprocess.Popen(
                    [*command(options), "--workdir", str(folder)],
                    env=os.environ | changes,
                    stdout=subprocess.DEVNULL,
                    preexec_fn=partial(os.sched_setaffinity, 0, own),
                )
            )
            for own, changes in zip(cores, environments(len(cores)), strict=True)
        ]
        if codes := [process.wait() for process in running if process.wait()]:
            raise RuntimeError(f"a process ended with code {codes[0]}")
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return statistics.median([line["images_per_second"] for line in lines if line["split"] == "train"][1:])


def command(options: Options) -> list[str]:
    """The training, one epoch of it."""
    settings = {
        "config": "configs/digits.py",
        "model.name": options.model,
        "pretrained.source": "None",
        "task.images.crop": str(options.crop),
        "data.batch-size": str(options.batch),
        "data.validation": "None",
        "phases.0.epochs": "1",
        "phases.0.rules.0.pattern": "fc",
        "phases.0.batch-norm": "batch",
        "log-every": "5",
    }
    pairs = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "jaxft.train", *pairs, "--pretrained.skip"]


def environments(count: int) -> Iterator[dict[str, str]]:
    """What tells each process of the others."""
    if count == 1:
        yield {"JAX_NUM_CPU_DEVICES": "1"}
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for index in range(count):
        yield {
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }


def main() -> None:
    """Prints a table."""
    options = tyro.cli(Options)
    all_cores = sorted(os.sched_getaffinity(0))[: options.processes]
    layouts = {"one process": [set(all_cores)], f"{len(all_cores)} processes": [{core} for core in all_cores]}
    found: dict[str, list[float]] = {name: [] for name in layouts}
    for _ in range(options.rounds):
        for name, cores in layouts.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(speed(options, cores, Path(folder) / "run"))
    medians = {name: statistics.median(speeds) for name, speeds in found.items()}
    one, several = medians.values()
    table = Table("", "images/s", "lowest to highest", title=f"{options.model}, {len(all_cores)} cores in all")
    for name, speeds in found.items():
        table.add_row(name, f"{medians[name]:.1f}", f"{min(speeds):.1f} to {max(speeds):.1f}")
    Console().print(table, f"ratio {several / one:.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps({"images_per_second": found, "ratio": several / one}, indent=1))


if __name__ == "__main__":
    main()
