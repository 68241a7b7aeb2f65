"""A dataset seen in several ways: examples mirrored, and several datasets of the same examples as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxft.data.dataset import Arrays, Dataset


@dataclass(frozen=True)
class Mirrored:
    """A dataset whose images `[H, W, C]` evaluation sees mirrored, left to right."""

    dataset: Dataset

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    @property
    def buckets(self) -> np.ndarray:
        return self.dataset.buckets

    def __len__(self) -> int:
        return len(self.dataset)

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        return self.dataset.training(index, rng)

    def evaluation(self, index: int) -> Arrays:
        arrays = self.dataset.evaluation(index)
        return {**arrays, "image": np.ascontiguousarray(np.asarray(arrays["image"])[:, ::-1])}

    def padding(self, bucket: int) -> Arrays:
        return self.dataset.padding(bucket)

    def names(self) -> Sequence[str]:
        return self.dataset.names()

    def check(self) -> None:
        self.dataset.check()

    def report(self, batch_size: int) -> str:
        return self.dataset.report(batch_size)


@dataclass(frozen=True)
class Together:
    """Datasets of the same examples, each a view of them, as one: view v of example i is at `i * len(views) + v`.

    Views of one shape share a bucket, so that one program predicts them all.
    """

    views: tuple[Dataset, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.views[0].classes

    @cached_property
    def _kinds(self) -> list[tuple[int, int]]:
        """By bucket, a view and the bucket in it whose shapes they are."""
        return list(self._known.values())

    @cached_property
    def _known(self) -> dict[tuple, tuple[int, int]]:
        """By shapes, the first view and the bucket in it that have them."""
        known: dict[tuple, tuple[int, int]] = {}
        for place, view in enumerate(self.views):
            for bucket in np.unique(view.buckets).tolist():
                known.setdefault(_shapes(view.padding(bucket)), (place, bucket))
        return known

    @cached_property
    def buckets(self) -> np.ndarray:
        numbers = {shapes: number for number, shapes in enumerate(self._known)}
        found = np.zeros((len(self.views[0]), len(self.views)), np.int32)
        for place, view in enumerate(self.views):
            for bucket in np.unique(view.buckets).tolist():
                found[view.buckets == bucket, place] = numbers[_shapes(view.padding(bucket))]
        return found.reshape(-1)

    def __len__(self) -> int:
        return len(self.views) * len(self.views[0])

    def training(self, index: int, rng: np.random.Generator) -> Arrays:
        example, view = divmod(index, len(self.views))
        return self.views[view].training(example, rng)

    def evaluation(self, index: int) -> Arrays:
        example, view = divmod(index, len(self.views))
        return self.views[view].evaluation(example)

    def padding(self, bucket: int) -> Arrays:
        view, own = self._kinds[bucket]
        return self.views[view].padding(own)

    def names(self) -> Sequence[str]:
        return [name for name in self.views[0].names() for _ in self.views]

    def check(self) -> None:
        self.views[0].check()

    def report(self, batch_size: int) -> str:
        return self.views[0].report(batch_size)


def _shapes(arrays: Arrays) -> tuple:
    return tuple((name, np.shape(array), str(np.asarray(array).dtype)) for name, array in sorted(arrays.items()))
