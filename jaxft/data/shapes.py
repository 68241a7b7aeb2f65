"""Generated pictures with targets: a data set that needs no download, the same on every machine."""

from dataclasses import dataclass

import numpy as np

from jaxft.data.source import Example
from jaxft.errors import UserError

SIDE = 64  # of a picture, pixels
COUNTS = {"train": 1000, "test": 250}
_CORNERS = {"circle": None, "square": 4, "triangle": 3}


@dataclass(frozen=True, eq=False)
class GeneratedPictures:
    """Pictures on a noisy ground of one color.

    Attributes:
        classes: names of the targets.
        pixels: uint8 `[N, 64, 64, 3]`.
        targets: float32 `[N, classes]`.
    """

    classes: tuple[str, ...]
    pixels: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Example:
        return Example(self.pixels[index], self.targets[index], f"picture {index}")

    def check(self) -> None:
        """There is no file to open."""


def generate_shapes(split: str, seed: int = 0) -> GeneratedPictures:
    """Pictures with a circle, a square and a triangle, each in half of them: labels of which an image may have several.

    They have any color, size and turn and do not hide each other.

    Args:
        split: "train" has 1,000 pictures, "test" 250.
        seed: equal seeds give equal pictures.

    Raises:
        UserError: there is no such split.
    """
    rng, count = _start(split, seed)
    pixels, targets = [], []
    for _ in range(count):
        ground = rng.integers(0, 256, 3)
        canvas = np.broadcast_to(ground, (SIDE, SIDE, 3)).astype(np.float64)
        shown = rng.integers(0, 2, len(_CORNERS))
        quarters = rng.permutation(4)
        for corners, is_shown, quarter in zip(_CORNERS.values(), shown, quarters, strict=False):
            radius = rng.uniform(4, SIDE / 4 - 2)
            center = np.array(divmod(int(quarter), 2)) * SIDE / 2 + rng.uniform(radius, SIDE / 2 - radius, 2)
            if is_shown:
                canvas = _paint(canvas, center, radius, corners, rng.uniform(0, 2 * np.pi), _color(ground, rng))
        pixels.append(_noisy(canvas, rng))
        targets.append(shown)
    return GeneratedPictures(tuple(_CORNERS), np.stack(pixels), np.array(targets, np.float32))


def generate_discs(split: str, seed: int = 0) -> GeneratedPictures:
    """Pictures with one disc each and three numbers: `x` and `y` of its center and `size`, its diameter, in pixels.

    Arguments and errors are those of `generate_shapes`.
    """
    rng, count = _start(split, seed)
    pixels, targets = [], []
    for _ in range(count):
        ground = rng.integers(0, 256, 3)
        canvas = np.broadcast_to(ground, (SIDE, SIDE, 3)).astype(np.float64)
        radius = rng.uniform(5, 16)
        center = rng.uniform(radius, SIDE - radius, 2)
        pixels.append(_noisy(_paint(canvas, center, radius, None, 0.0, _color(ground, rng)), rng))
        targets.append((center[1], center[0], 2 * radius))
    return GeneratedPictures(("x", "y", "size"), np.stack(pixels), np.array(targets, np.float32))


def _start(split: str, seed: int) -> tuple[np.random.Generator, int]:
    if split not in COUNTS:
        raise UserError(f"The generated pictures have no split {split!r}; choose 'train' or 'test'.")
    return np.random.default_rng([seed, list(COUNTS).index(split)]), COUNTS[split]


def _color(ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A color that differs from that of the ground by a third of the range in each channel."""
    return (ground + rng.integers(86, 171, 3)) % 256


def _paint(
    canvas: np.ndarray, center: np.ndarray, radius: float, corners: int | None, angle: float, color: np.ndarray
) -> np.ndarray:
    """A canvas `[H, W, 3]` with a disc, or a regular polygon of so many corners, laid on it with smooth edges.

    Args:
        center: y and x, pixels; `radius` is that of the circle through the corners.
    """
    down, across = np.mgrid[: canvas.shape[0], : canvas.shape[1]] + 0.5 - center[:, None, None]
    if corners is None:
        beyond = np.hypot(down, across) - radius
    else:
        turns = angle + 2 * np.pi * np.arange(corners) / corners
        sides = np.multiply.outer(np.sin(turns), down) + np.multiply.outer(np.cos(turns), across)
        beyond = sides.max(axis=0) - radius * np.cos(np.pi / corners)
    covered = np.clip(0.5 - beyond, 0, 1)[..., None]
    return canvas * (1 - covered) + color * covered


def _noisy(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.round(canvas + rng.normal(0, 16, canvas.shape)), 0, 255).astype(np.uint8)
