"""The two small nets whose outputs are stored, and the weights and images that belong to them, drawn by NumPy."""

from collections.abc import Iterable

import numpy as np
from flax import nnx

from jaxft.models.efficientnet_lite import EfficientNetLite
from jaxft.models.resnet import BasicBlock, ResNet

CLASSES = 5
STORED = "stored/logits.npz"


def images() -> np.ndarray:
    """`[2, 32, 32, 3]`, normalised."""
    return np.random.default_rng(1).standard_normal((2, 32, 32, 3)).astype(np.float32)


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


OURS = {
    "resnet": lambda: ResNet(BasicBlock, (1, 1, 1, 1), CLASSES, rngs=nnx.Rngs(0)),
    "lite": lambda: EfficientNetLite(CLASSES, width=1.0, depth=1.0, dropout=0.2, drop_path=0.2, rngs=nnx.Rngs(0)),
}
