"""How fast training photos are read: jaxft's loader beside PyTorch's `DataLoader` with torchvision's transforms.

    python benchmarks/input_pipeline.py --root FOLDER_WITH_ONE_SUBFOLDER_A_CLASS

Both read the same files, crop at random to 224 x 224, flip, and give batches. PyTorch's are normalized float32, jaxft's
are uint8, because jaxft normalizes on the device. Starting workers is not counted. "A CPU second" divides by the
processor time of all threads where everything runs in one process; it hardly depends on what else the machine does.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torchvision import datasets, transforms

from jaxft.data.dataset import ImageDataset
from jaxft.data.folder import ImageFolder
from jaxft.data.loader import train_batches
from jaxft.data.transforms import Augment, CenterCrop

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP = 10


@dataclass(frozen=True)
class Rate:
    """Photos a second of wall clock, and of processor time of this process (worker processes not counted)."""

    wall: float
    cpu: float


def main(
    root: Path, batch_size: int = 32, batches: int = 60, repeats: int = 3, workers: int = os.cpu_count() or 1
) -> None:
    """Print a table of photos a second.

    Args:
        root: folder with one sub-folder of images for each class.
        batch_size: photos in a batch.
        batches: how many batches are timed.
        repeats: how often each is timed; the best counts.
        workers: worker processes, for PyTorch and for jaxft.
    """
    torch.set_num_threads(
        1
    )  # one photo at a time gains nothing from PyTorch's threads, and DataLoader's workers do the same
    measured = {
        "jaxft, threads": lambda: jaxft_rate(root, batch_size, batches, 0),
        "PyTorch, no workers": lambda: torch_rate(root, batch_size, batches, 0),
        f"jaxft, {workers} processes": lambda: jaxft_rate(root, batch_size, batches, workers),
        f"PyTorch, {workers} processes": lambda: torch_rate(root, batch_size, batches, workers),
    }
    rounds = [{name: measure() for name, measure in measured.items()} for _ in range(repeats)]
    best = {name: Rate(max(r[name].wall for r in rounds), max(r[name].cpu for r in rounds)) for name in measured}
    Console().print(table(best, workers))


def jaxft_rate(root: Path, batch_size: int, batches: int, workers: int) -> Rate:
    """Time jaxft's loader; `workers` 0 means threads."""
    with train_batches(
        ImageDataset(ImageFolder(root), Augment(), CenterCrop()), batch_size=batch_size, seed=0, workers=workers
    ) as loader:
        return timed(loader, batch_size, batches)


def torch_rate(root: Path, batch_size: int, batches: int, workers: int) -> Rate:
    """Time PyTorch's loader; `workers` 0 means in this process."""
    steps = [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    photos = datasets.ImageFolder(root, transforms.Compose(steps))
    # One long epoch, so that PyTorch's pause between epochs is not counted either.
    sampler = torch.utils.data.RandomSampler(
        photos, replacement=True, num_samples=(WARM_UP + batches + 10) * batch_size
    )
    return timed(
        torch.utils.data.DataLoader(photos, batch_size, sampler=sampler, num_workers=workers), batch_size, batches
    )


def timed(loader: Iterable[Any], batch_size: int, batches: int) -> Rate:
    """Draw and drop `batches` batches, after some that fill the queues."""
    endless = iter(loader)
    for _ in range(WARM_UP):
        next(endless)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(endless)
    photos = batch_size * batches
    return Rate(photos / (time.perf_counter() - wall), photos / (time.process_time() - cpu))


def table(rates: dict[str, Rate], workers: int) -> Table:
    """Lay the rates out; the last rows compare like with like."""
    jaxft_threads, torch_alone, jaxft_processes, torch_processes = rates.values()
    result = Table("loader", "photos/s", "photos/s and core", "photos a CPU second", title="Reading training photos")
    cores = min(workers, os.cpu_count() or 1)
    for (name, rate), used, alone in zip(
        rates.items(), (os.cpu_count() or 1, 1, cores, cores), (1, 1, 0, 0), strict=True
    ):
        result.add_row(name, f"{rate.wall:.0f}", f"{rate.wall / used:.0f}", f"{rate.cpu:.0f}" if alone else "")
    result.add_section()
    result.add_row("jaxft / PyTorch, one CPU second", "", "", f"{jaxft_threads.cpu / torch_alone.cpu:.2f}")
    result.add_row(f"jaxft threads / PyTorch, {workers} processes", f"{jaxft_threads.wall / torch_processes.wall:.2f}")
    result.add_row(f"jaxft / PyTorch, {workers} processes each", f"{jaxft_processes.wall / torch_processes.wall:.2f}")
    return result


if __name__ == "__main__":
    tyro.cli(main)
