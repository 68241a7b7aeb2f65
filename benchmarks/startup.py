"""Seconds from typing the training command to its first finished step, with and without the compile cache.

    python -m benchmarks.startup

PyTorch's column is a process that imports torch and torchvision, builds the same network, and takes one step.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

TORCH = """
import torch, torchvision
model = torchvision.models.resnet18().to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
torch.nn.functional.cross_entropy(model(torch.randn(32, 3, 64, 64)), torch.zeros(32).long()).backward()
optimizer.step()
"""
OURS = [
    *("-m", "jaxft.train", "--config", "configs/digits.py", "--model.name", "resnet18", "--pretrained.source", "None"),
    *("--pretrained.skip", "--phases.0.epochs", "1", "--phases.0.rules.0.pattern", "fc", "--log-every", "1"),
]


def until_first_step(cache: Path, folder: Path) -> float:
    """Starts the command, waits for its first line of metrics, and ends it."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    start = time.perf_counter()
    command = [sys.executable, *OURS, "--workdir", str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(f"the command ended with code {process.returncode} before its first step")
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", TORCH], check=True)
        theirs = time.perf_counter() - start
        cold = until_first_step(folder / "cache", folder / "cold")
        warm = until_first_step(folder / "cache", folder / "warm")
    table = Table("start-up to first step", "seconds", "ratio", title="ResNet-18, batch 32, 64 px")
    table.add_row("PyTorch, one step", f"{theirs:.1f}", "1.00")
    table.add_row("jaxft, empty compile cache", f"{cold:.1f}", f"{theirs / cold:.2f}")
    table.add_row("jaxft, filled compile cache", f"{warm:.1f}", f"{theirs / warm:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
