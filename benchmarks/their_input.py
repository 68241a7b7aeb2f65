"""PyTorch's `DataLoader` with torchvision's transforms, prepared to be timed."""

from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, RandomSampler
from torchvision import datasets, transforms

from benchmarks.reading import WARM_UP, rates
from jaxft.config import Images


def reading(root: str, batch_size: int, batches: int, workers: int, compiled: bool) -> Callable[[], dict[str, float]]:
    """Reads with worker processes, or in this process where `workers` is 0; they start anew in every run."""
    del compiled  # there is nothing to compile
    torch.set_num_threads(1)  # one photo gains nothing from PyTorch's threads, and DataLoader's workers do the same
    fields = Images()
    steps = [
        transforms.RandomResizedCrop(fields.crop),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(fields.mean, fields.std),
    ]
    photos = datasets.ImageFolder(root, transforms.Compose(steps))
    # One long epoch, so that PyTorch's pause between epochs is not counted either.
    sampler = RandomSampler(photos, replacement=True, num_samples=(WARM_UP + batches + 10) * batch_size)
    return lambda: rates(DataLoader(photos, batch_size, sampler=sampler, num_workers=workers), batch_size, batches)
