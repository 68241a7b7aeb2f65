"""The images of the nets whose outputs are stored, and their weights, drawn by NumPy."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

LOGITS = Path(__file__).parent / "stored" / "logits.npz"


def images(size: int) -> np.ndarray:
    """`[2, size, size, 3]`, normalized."""
    return np.random.default_rng(1).standard_normal((2, size, size, 3)).astype(np.float32)


def weights(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """A state dict of those names and shapes; each tensor depends on its place in the order of the names alone."""
    state = {}
    for index, (key, shape) in enumerate(sorted(shapes)):
        random = np.random.default_rng([7, index])
        if key.endswith("num_batches_tracked"):
            state[key] = np.array(index)
        elif len(shape) > 1:
            fan_in = np.prod(shape[1:])
            state[key] = (random.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        else:
            positive = key.endswith(("running_var", "weight"))
            state[key] = random.uniform(0.5 if positive else -0.5, 1.5 if positive else 0.5, shape).astype(np.float32)
    return state
