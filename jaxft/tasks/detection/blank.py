"""Black photos without objects, where the shapes of batches are wanted and nothing is opened."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxft.data.dataset import Arrays
from jaxft.fields import HeightWidth
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.bounds import needed_pad_shapes
from jaxft.tasks.detection.dataset import ground_truth, padded
from jaxft.tasks.detection.scene import Scene
from jaxft.tasks.detection.steps import training_steps


@dataclass(frozen=True)
class BlankPhotos:
    """Examples for training as an `ObjectDataset` gives them, `count` of each pad shape."""

    classes: tuple[str, ...]
    settings: Detection
    pad_shapes: tuple[HeightWidth, ...]
    count: int

    @property
    def buckets(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.pad_shapes), dtype=np.int32), self.count)

    def __len__(self) -> int:
        return len(self.pad_shapes) * self.count

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        pad_shape = self.pad_shapes[self.buckets[index]]
        pixels, none = np.zeros((*pad_shape, 3), np.uint8), np.zeros(0, np.int32)
        masks = np.zeros((0, *pad_shape), bool) if self.settings.masks else None
        scene = Scene(pixels, np.zeros((0, 4), np.float32), none, none.astype(bool), masks)
        return padded(pixels, pad_shape) | ground_truth(scene, pad_shape, self.settings.max_objects)

    def evaluation(self, index: int) -> Arrays:
        return self.padding(int(self.buckets[index]))

    def padding(self, bucket: int) -> Arrays:
        return padded(np.zeros((1, 1, 3), np.uint8), self.pad_shapes[bucket])

    def names(self) -> Sequence[str]:
        return [str(index) for index in range(len(self))]

    def check(self) -> None:
        """There is nothing to open."""

    def report(self, batch_size: int) -> str:
        return f"{len(self)} black photos"


def blank_photos(settings: Detection, classes: tuple[str, ...], count: int) -> BlankPhotos:
    """Black photos of the pad shapes in which photos of any size are trained on.

    Raises:
        UserError: the steps do not say how large photos become, and no pad shapes are given.
    """
    steps = (*settings.photo_transforms, *training_steps(settings))
    shapes = settings.pad_shapes or needed_pad_shapes(steps, settings.divisor)
    return BlankPhotos(classes, settings, shapes, count)
