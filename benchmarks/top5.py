"""How often the ImageNet weights of EfficientNet-Lite0 see a hot dog among their first five classes.

    python -m benchmarks.top5 --root ../shared/data/hotdog/test

No training: the check that weights, names, padding and normalization are what they were where the weights come from.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from converters import load_pretrained
from jaxft import config
from jaxft.cli import start
from jaxft.data.dataset import ImageDataset
from jaxft.data.folder import ImageFolder
from jaxft.models import abstract_model
from jaxft.models.paths import values
from jaxft.reporting.console import make_console
from jaxft.training.evaluation import Predictor
from jaxft.training.layout import device_layout

HOTDOG = 934  # ImageNet's class "hotdog, hot dog, red hot"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Predicts ImageNet's classes for a folder of photos."""

    root: Path = Path("data/hotdog/test")
    """A folder with one sub-folder a class."""


def main() -> None:
    """Prints a line a class."""
    options = tyro.cli(Options)
    start()
    settings = config.load(Path("configs/hotdog_lite0.py"))
    assert isinstance(settings.task, config.Classification)
    assert settings.pretrained.source is not None
    model = abstract_model(settings.model.name)
    load_pretrained(model, settings.pretrained.source)
    model.eval()
    task = settings.task.task()
    photos = ImageFolder(options.root)
    dataset = ImageDataset(photos, settings.task.images.augment(), settings.task.images.center_crop())
    layout = device_layout(settings.data.batch_size)
    predictor = Predictor(task, model, layout, batch_size=settings.data.batch_size)
    predictions = dict(sorted(predictor(values(model), dataset)))
    probabilities = np.stack([prediction["probabilities"] for prediction in predictions.values()])
    found = (np.argsort(-probabilities, axis=1)[:, :5] == HOTDOG).any(1)
    labels = np.array([photos[index].label for index in range(len(photos))])
    for label, name in enumerate(photos.classes):
        share = found[labels == label].mean()
        make_console().print(f"{name}: hot dog in the first five for {share:.1%} of {(labels == label).sum()}")


if __name__ == "__main__":
    main()
