"""The one rule by which a PyTorch tensor and a Flax leaf correspond.

Paths are the same on both sides, since models carry PyTorch's attribute names. Only the leaf differs: its name, and the
order of its axes, both decided by the type of the layer that owns it.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from flax import nnx

from jaxft.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    FrozenBatchNorm,
    GroupNorm,
    LayerNorm,
    Linear,
    LinearOverMap,
)
from jaxft.models.layers.attention import MultiheadAttention
from jaxft.models.paths import walk

# Layer -> our leaf -> (PyTorch's leaf, the axes of PyTorch's tensor in our order; None where the order is the same).
# What is not listed, such as a class token, has the same name and axes on both sides.
LEAVES: dict[type, dict[str, tuple[str, tuple[int, ...] | None]]] = {
    Conv: {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", None)},
    Linear: {"kernel": ("weight", (1, 0)), "bias": ("bias", None)},
    LinearOverMap: {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", None)},
    MultiheadAttention: {"in_proj_kernel": ("in_proj_weight", (1, 0))},
    ConvTranspose: {"kernel": ("weight", (2, 3, 0, 1)), "bias": ("bias", None)},
    LayerNorm: {"scale": ("weight", None), "bias": ("bias", None)},
    GroupNorm: {"scale": ("weight", None), "bias": ("bias", None)},
    FrozenBatchNorm: {
        "scale": ("weight", None),
        "bias": ("bias", None),
        "mean": ("running_mean", None),
        "var": ("running_var", None),
    },
    BatchNorm: {
        "scale": ("weight", None),
        "bias": ("bias", None),
        "mean": ("running_mean", None),
        "var": ("running_var", None),
        "num_batches_tracked": ("num_batches_tracked", None),
    },
}
COUNTER = ".num_batches_tracked"


class Leaf(NamedTuple):
    """One leaf of a model and its name on the other side."""

    path: str  # ours: layer1.0.conv1.kernel
    key: str  # PyTorch's: layer1.0.conv1.weight
    variable: nnx.Variable
    axes: tuple[int, ...] | None
    flattened: bool  # whether PyTorch's tensor has all its axes after the first in one

    @property
    def _apart(self) -> tuple[int, ...]:
        """The shape of PyTorch's tensor, were none of its axes flattened into one."""
        shape = tuple(self.variable.shape)
        return shape if self.axes is None else tuple(shape[self.axes.index(axis)] for axis in range(len(shape)))

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape of PyTorch's tensor."""
        return (self._apart[0], math.prod(self._apart[1:])) if self.flattened else self._apart

    def from_torch(self, tensor: np.ndarray) -> np.ndarray:
        """PyTorch's tensor in our order of axes."""
        return tensor if self.axes is None else tensor.reshape(self._apart).transpose(self.axes)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Our array in PyTorch's order of axes, contiguous."""
        ordered = array if self.axes is None else array.transpose(np.argsort(self.axes))
        return np.array(ordered.reshape(self.source_shape), order="C")


def leaves(model: nnx.Module) -> Iterator[Leaf]:
    """Every parameter and statistic of `model` with its PyTorch name.

    Where a model has `torch_names`, PyTorch's calls whole parts otherwise (`detectors/torchvision/names.py`).
    """
    names: Sequence[tuple[str, str]] = getattr(model, "torch_names", ())
    for path, owner, name, variable in walk(model):
        torch_name, axes = LEAVES.get(type(owner), {}).get(name, (name, None))
        flattened = isinstance(owner, LinearOverMap) and name == "kernel"
        yield Leaf(path, _renamed(path.removesuffix(name) + torch_name, names), variable, axes, flattened)


def _renamed(key: str, names: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in names:
        new, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return new
    return key
