"""Mixup and CutMix: how each training example is to be mixed with another one of its batch; drawn on the host, done on
the device (`jaxft.tasks.mixing`)."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixing:
    """Draws a mixture for an example, by the rules of torchvision's transforms of these names.

    Mixup is https://arxiv.org/abs/1710.09412, CutMix https://arxiv.org/abs/1905.04899. Where both are on each example
    gets one of them, with equal chance. Every example has a mixture of its own, and not one for its batch, so that it
    depends on nothing but the run's seed, the epoch and the example.

    Attributes:
        mixup, cutmix: the parameter of the symmetric beta distribution that the share comes from; 0 is off.
        size: height and width of the images, pixels.
    """

    mixup: float
    cutmix: float
    size: int

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """float32 `[6]`: the example's own share of the target, its share of each pixel, and the left, top, right and
        bottom edge of the box, in pixels, that is the other example's alone."""
        cuts = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        share = rng.beta(self.cutmix, self.cutmix) if cuts else rng.beta(self.mixup, self.mixup)
        if not cuts:
            return np.array([share, share, 0, 0, 0, 0], np.float32)
        half = int(0.5 * math.sqrt(1 - share) * self.size)
        column, row = (int(place) for place in rng.integers(0, self.size, 2))
        left, right = (min(max(edge, 0), self.size) for edge in (column - half, column + half))
        top, bottom = (min(max(edge, 0), self.size) for edge in (row - half, row + half))
        inside = (right - left) * (bottom - top)
        return np.array([1 - inside / self.size**2, 1, left, top, right, bottom], np.float32)
