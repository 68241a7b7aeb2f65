"""Boxes as a detector's pieces meet them, the same for both sides; NumPy only."""

import numpy as np

HEIGHT, WIDTH, STRIDES, IMAGES = 320, 416, (4, 8, 16, 32), 2
IOU, KEPT, BINS = 0.7, 1000, 7


def spread(count: int, seed: int = 0) -> np.ndarray:
    """`[count, 4]`: sides of 16 to 300 pixels, elongated by up to about three, cut to the image."""
    random = np.random.default_rng(seed)
    side = np.exp(random.uniform(np.log(16), np.log(300), count))
    stretch = np.exp(random.normal(size=count) * 0.5)
    half = np.stack([side * stretch, side / stretch], 1) / 2
    center = random.uniform(0, 1, (count, 2)) * (WIDTH, HEIGHT)
    return np.concatenate([center - half, center + half], 1).clip(0, [WIDTH, HEIGHT] * 2).astype(np.float32)


def clusters(count: int) -> np.ndarray:
    """`[count, 4]`: 40 boxes a thing, moved by some pixels, as proposals overlap."""
    things = spread(max(count // 40, 1), 1)
    noise = np.random.default_rng(2).normal(size=(count, 4)) * 8
    return (things[np.arange(count) % len(things)] + noise).astype(np.float32)


def proposals(count: int, clustered: bool) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and their scores."""
    scores = np.random.default_rng(1).uniform(size=count).astype(np.float32)
    return clusters(count) if clustered else spread(count), scores


def image_of(count: int) -> np.ndarray:
    """int32 `[count]`, the image of each roi."""
    return np.sort(np.random.default_rng(0).integers(0, IMAGES, count)).astype(np.int32)


def level_of(rois: np.ndarray) -> np.ndarray:
    """int32 `[R]`, the level of the pyramid that a roi reads, by its size."""
    side = np.sqrt(np.prod(rois[:, 2:] - rois[:, :2], axis=1))
    return np.floor(np.log2(side / 56 + 1e-6)).clip(0, len(STRIDES) - 1).astype(np.int32)


def pyramid(channels: int) -> list[np.ndarray]:
    """A map `[IMAGES, H_l, W_l, channels]` for each level."""
    random = np.random.default_rng(0)
    shapes = [(IMAGES, HEIGHT // stride, WIDTH // stride, channels) for stride in STRIDES]
    return [random.standard_normal(shape, np.float32) for shape in shapes]


def pooled_gradient(count: int, channels: int) -> np.ndarray:
    """`[count, BINS, BINS, channels]`."""
    return np.random.default_rng(5).standard_normal((count, BINS, BINS, channels), np.float32)
