"""Examples of noise, the same for both sides; NumPy only."""

import numpy as np

BOXES, MAX_OBJECTS = 8, 16


def pixels(batch: int, height: int, width: int | None = None) -> np.ndarray:
    """`[batch, height, width, 3]` uint8; square without `width`."""
    shape = (batch, height, width or height, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def labels(batch: int, classes: int = 1000) -> np.ndarray:
    """`[batch]` int32."""
    return np.random.default_rng(1).integers(0, classes, batch).astype(np.int32)


def boxes(batch: int, height: int, width: int) -> np.ndarray:
    """`[batch, MAX_OBJECTS, 4]` float32, x1 y1 x2 y2 in pixels, from a tenth to four tenths of the photo a side."""
    random = np.random.default_rng(2)
    corner = random.uniform(0, 0.6, (batch, MAX_OBJECTS, 2)) * (width, height)
    side = random.uniform(0.1, 0.4, (batch, MAX_OBJECTS, 2)) * (width, height)
    return np.concatenate([corner, corner + side], -1).astype(np.float32)


def classes(batch: int, count: int) -> np.ndarray:
    """`[batch, MAX_OBJECTS]` int32, of which the first `BOXES` of each photo count."""
    return np.random.default_rng(3).integers(0, count, (batch, MAX_OBJECTS)).astype(np.int32)


def masks(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """`[batch, count, height, width]` uint8 of 0 and 1: the ellipse in each box."""
    x1, y1, x2, y2 = (boxes[..., axis, None, None] for axis in range(4))
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1
    return inside.astype(np.uint8)


def queries(batch: int, tokens: int, heads: int, width: int) -> list[np.ndarray]:
    """Queries, keys and values, each `[batch, tokens, heads, width]` float32."""
    random = np.random.default_rng(4)
    return [random.standard_normal((batch, tokens, heads, width), np.float32) for _ in range(3)]


def convolution(shape: list[int], batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images `[N, H, W, C]`, a kernel `[kh, kw, C / groups, K]`, and a gradient of the output; float32."""
    size, channels, features, kernel, stride, groups = shape
    random, out = np.random.default_rng(5), -(-size // stride)
    return (
        random.standard_normal((batch, size, size, channels), np.float32),
        random.standard_normal((kernel, kernel, channels // groups, features), np.float32),
        random.standard_normal((batch, out, out, features), np.float32),
    )
