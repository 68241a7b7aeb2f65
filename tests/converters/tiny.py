"""A model of all kinds of layers that is built in no time, and weights for any model."""

import numpy as np
from flax import nnx

from converters.rules import leaves
from jaxft.models.layers import BatchNorm, Conv, Linear, Sequential
from jaxft.models.paths import values


class Tiny(nnx.Module):
    def __init__(self, num_classes: int = 2, *, rngs: nnx.Rngs) -> None:
        self.conv1 = Conv(3, 4, (3, 2), rngs=rngs)
        self.bn1 = BatchNorm(4)
        self.layer1 = Sequential([Conv(4, 6, 1, groups=2, bias=False, rngs=rngs), BatchNorm(6)])
        self.fc = Linear(6, num_classes, rngs=rngs)


def tiny(num_classes: int = 2) -> Tiny:
    return Tiny(num_classes, rngs=nnx.Rngs(0))


def random_state(model: nnx.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict under PyTorch's names, drawn by NumPy."""
    random = np.random.default_rng(seed)
    return {
        leaf.key: random.integers(0, 1000, leaf.source_shape)
        if leaf.variable.dtype == np.int32
        else random.uniform(0.5, 1.5, leaf.source_shape).astype(np.float32)
        for leaf in leaves(model)
    }


def snapshot(model: nnx.Module) -> dict[str, bytes]:
    return {path: np.asarray(value).tobytes() for path, value in values(model).items()}
