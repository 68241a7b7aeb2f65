"""Augmentation policies: RandAugment, TrivialAugment and AutoAugment, which operations they draw and how strong.

Figures, order of the draws, and pixels are those of torchvision 0.29 (`transforms/autoaugment.py`) for pictures of
Pillow. `draw` has all the chance of a policy, `jaxft.data.operations.apply` has none.

AugMix is not here: torchvision turns a picture into a tensor for it and does the operations on that, by other
arithmetic than Pillow's and with other edges, so that it would take a second implementation of each to give its pixels.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from jaxft.data.autoaugment import CIFAR10, IMAGENET, SVHN, Choice
from jaxft.data.operations import (
    BLACK,
    Drawn,
    Operation,
    Warp,
    apply,
    autocontrast,
    brightness,
    color,
    contrast,
    equalize,
    identity,
    invert,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
)

BINS = 31
"""Magnitudes of RandAugment and TrivialAugment, numbered from 0."""
AUTO_BINS = 10
"""Magnitudes of AutoAugment, numbered from 0."""
SubPolicies = tuple[tuple[Choice, Choice], ...]
SUB_POLICIES: dict[str, SubPolicies] = {"imagenet": IMAGENET, "cifar10": CIFAR10, "svhn": SVHN}


class Range(NamedTuple):
    """The magnitudes of an operation, evenly spaced from the first to the last.

    Attributes:
        signed: each also counts with a minus.
    """

    first: float
    last: float
    signed: bool = True

    def at(self, index: int, bins: int) -> float:
        """Magnitude number `index` of `bins`, to the last digit as `torch.linspace` computes it.

        The last digit counts, because a translation drops the fraction: in float32, from the nearer end, and with one
        rounding for product and sum (FMA), which float64 stands in for here.
        """
        first, last = np.float32(self.first), np.float32(self.last)
        step = float((last - first) / np.float32(bins - 1))
        near = float(first) + step * index if index < bins // 2 else float(last) - step * (bins - 1 - index)
        return float(np.float32(near))


Space = dict[Operation, Range | None]
"""What a policy can draw, in torchvision's order; None is for operations without a magnitude."""


def narrow_space(width: int, height: int) -> Space:
    """The magnitudes of RandAugment and AutoAugment for a picture of this size."""
    share = 150 / 331  # of the side, the largest translation
    return {
        shear_x: Range(0.0, 0.3),
        shear_y: Range(0.0, 0.3),
        translate_x: Range(0.0, share * width),
        translate_y: Range(0.0, share * height),
        rotate: Range(0.0, 30.0),
        brightness: Range(0.0, 0.9),
        color: Range(0.0, 0.9),
        contrast: Range(0.0, 0.9),
        sharpness: Range(0.0, 0.9),
        posterize: Range(8, 4, signed=False),
        solarize: Range(255, 0, signed=False),
        autocontrast: None,
        equalize: None,
    }


WIDE_SPACE: Space = {
    identity: None,
    shear_x: Range(0.0, 0.99),
    shear_y: Range(0.0, 0.99),
    translate_x: Range(0.0, 32.0),
    translate_y: Range(0.0, 32.0),
    rotate: Range(0.0, 135.0),
    brightness: Range(0.0, 0.99),
    color: Range(0.0, 0.99),
    contrast: Range(0.0, 0.99),
    sharpness: Range(0.0, 0.99),
    posterize: Range(8, 2, signed=False),
    solarize: Range(255, 0, signed=False),
    autocontrast: None,
    equalize: None,
}
"""The magnitudes of TrivialAugment."""


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Some operations out of 14, drawn with repetition, all at one magnitude (Cubuk et al. 2019, arXiv 1909.13719).

    Attributes:
        num_ops: how many, 1 or more.
        magnitude: 0 (the least) to 30.
        warp: how operations that move pixels make new ones.
    """

    num_ops: int = 2
    magnitude: int = 9
    warp: Warp = BLACK

    def draw(self, width: int, height: int, rng: np.random.Generator) -> list[Drawn]:
        """The operations for a picture of this size; a sign has even chances."""
        space: Space = {identity: None, **narrow_space(width, height)}
        operations = list(space)
        drawn = []
        for _ in range(self.num_ops):
            operation = operations[rng.integers(len(operations))]
            span = space[operation]
            drawn.append((operation, 0.0 if span is None else _signed(span, self.magnitude, rng)))
        return drawn

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 `[H, W, 3]` -> the same shape and type."""
        height, width = pixels.shape[:2]
        return apply(pixels, self.draw(width, height, rng), self.warp)


@dataclass(frozen=True, kw_only=True)
class TrivialAugment:
    """One operation out of 14 at any magnitude, in the wide form (Müller and Hutter 2021, arXiv 2103.10158).

    Attributes:
        warp: how operations that move pixels make new ones.
    """

    warp: Warp = BLACK

    def draw(self, rng: np.random.Generator) -> list[Drawn]:
        """The operation, for a picture of any size; magnitudes and signs have even chances."""
        operation, span = list(WIDE_SPACE.items())[rng.integers(len(WIDE_SPACE))]
        return [(operation, 0.0 if span is None else _signed(span, int(rng.integers(BINS)), rng))]

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 `[H, W, 3]` -> the same shape and type."""
        return apply(pixels, self.draw(rng), self.warp)


@dataclass(frozen=True, kw_only=True)
class AutoAugment:
    """One of 25 pairs of operations that were searched for on a data set; see `jaxft.data.autoaugment`.

    Attributes:
        found_on: the data set.
        warp: how operations that move pixels make new ones.
    """

    found_on: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    warp: Warp = BLACK

    def draw(self, width: int, height: int, rng: np.random.Generator) -> list[Drawn]:
        """None, one or two operations for a picture of this size; a sign has even chances."""
        sub_policies = SUB_POLICIES[self.found_on]
        pair = sub_policies[rng.integers(len(sub_policies))]
        chances, signs = rng.random(2), rng.integers(2, size=2)
        space: Space = {**narrow_space(width, height), invert: None}
        drawn = []
        for choice, chance, sign in zip(pair, chances, signs, strict=True):
            if chance <= choice.probability:
                span = space[choice.operation]
                magnitude = 0.0
                if span is not None and choice.magnitude is not None:
                    magnitude = span.at(choice.magnitude, AUTO_BINS)
                    magnitude = -magnitude if span.signed and sign == 0 else magnitude
                drawn.append((choice.operation, magnitude))
        return drawn

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 `[H, W, 3]` -> the same shape and type."""
        height, width = pixels.shape[:2]
        return apply(pixels, self.draw(width, height, rng), self.warp)


def _signed(span: Range, index: int, rng: np.random.Generator) -> float:
    magnitude = span.at(index, BINS)
    return -magnitude if span.signed and rng.integers(2) else magnitude
