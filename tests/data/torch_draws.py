"""PyTorch's random numbers behind NumPy's interface, to give torchvision and ours the same draws."""

from typing import cast

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")


class TorchDraws:
    """What our augmentations ask of a generator, answered by PyTorch's global one as torchvision asks it."""

    def random(self, size: int = 1) -> np.ndarray:
        return torch.rand(size).numpy()

    def uniform(self, low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high).item()

    def integers(self, low: int, high: int | None = None, *, size: int = 1, endpoint: bool = False) -> int | np.ndarray:
        first, last = (0, low) if high is None else (low, high)
        found = torch.randint(first, last + endpoint, (size,))
        return int(found.item()) if size == 1 else found.numpy()

    def permutation(self, size: int) -> np.ndarray:
        return torch.randperm(size).numpy()

    def standard_normal(self, shape: tuple[int, int, int]) -> np.ndarray:
        height, width, channels = shape
        return torch.empty([channels, height, width]).normal_().permute(1, 2, 0).numpy()


def seeded(seed: int) -> np.random.Generator:
    """PyTorch's generator, started anew from a seed, where a generator of NumPy is asked for."""
    torch.manual_seed(seed)
    return cast(np.random.Generator, TorchDraws())


def noisy(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture in which every pixel differs from its neighbors, so that none can be taken for another."""
    return Image.fromarray(np.random.default_rng([seed, width]).integers(0, 256, (height, width, 3), np.uint8))
