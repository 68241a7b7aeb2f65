"""jaxft's loader of training photos, prepared to be timed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.reading import rates
from jaxft.data.dataset import ImageDataset
from jaxft.data.folder import ImageFolder
from jaxft.data.loader import train_batches
from jaxft.data.transforms import Augment, CenterCrop


def reading(root: str, batch_size: int, batches: int, workers: int) -> Callable[[], dict[str, float]]:
    """Reads with worker processes, or with threads where `workers` is 0; they start anew in every run."""
    photos = ImageDataset(ImageFolder(Path(root)), Augment(), CenterCrop())
    start = partial(train_batches, photos, batch_size=batch_size, seed=0, workers=workers)

    def run() -> dict[str, float]:
        with start() as loader:
            return rates(loader, batch_size, batches)

    return run
