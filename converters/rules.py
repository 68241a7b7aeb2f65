"""The one rule by which a PyTorch tensor and a Flax leaf correspond.

Paths are the same on both sides, since models carry PyTorch's attribute names. Only the leaf differs: its name, and the
order of its axes, both decided by the type of the layer that owns it: one of jaxft's, or one of Flax's own.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from flax import nnx

from jaxft.errors import UserError
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
from jaxft.models.paths import Place, modules, walk

Axes = tuple[int, ...] | None
"""The axes of PyTorch's tensor in our order; None where the order is the same."""


def _window_first(axes: int) -> Axes:
    """PyTorch `[inputs, outputs, *window]` -> ours `[*window, inputs, outputs]`, of so many axes."""
    return (*range(2, axes), 0, 1)


def _turned(axes: int) -> Axes:
    """PyTorch `[outputs, inputs, *window]` -> ours `[*window, inputs, outputs]`; and outputs for inputs."""
    return (*range(2, axes), 1, 0)


def _same(axes: int) -> Axes:
    return None


Names = dict[str, tuple[str, Callable[[int], Axes]]]
"""Our leaf -> (PyTorch's leaf, its axes)."""

AFFINE: Names = {"scale": ("weight", _same), "bias": ("bias", _same)}
TRACKED: Names = {"mean": ("running_mean", _same), "var": ("running_var", _same)}
KERNEL: Names = {"kernel": ("weight", _turned), "bias": ("bias", _same)}
# What else a model of jaxft holds, such as a class token, has the same name and axes on both sides.
LEAVES: dict[type, Names] = {
    Conv: KERNEL,
    Linear: KERNEL,
    LinearOverMap: KERNEL,
    MultiheadAttention: {"in_proj_kernel": ("in_proj_weight", _turned)},
    ConvTranspose: {"kernel": ("weight", _window_first), "bias": ("bias", _same)},
    LayerNorm: AFFINE,
    GroupNorm: AFFINE,
    FrozenBatchNorm: AFFINE | TRACKED,
    BatchNorm: AFFINE | TRACKED | {"num_batches_tracked": ("num_batches_tracked", _same)},
    # Flax's own, which a user puts in.
    nnx.Linear: KERNEL,
    nnx.Conv: KERNEL,
    nnx.ConvTranspose: KERNEL,  # with `transpose_kernel`, as PyTorch's: the kernel of the convolution that it reverses
    nnx.BatchNorm: AFFINE | TRACKED,
    nnx.LayerNorm: AFFINE,
    nnx.GroupNorm: AFFINE,
    nnx.Embed: {"embedding": ("weight", _same)},
}
OWN_NAMES = "torch_leaves"  # the attribute of a class of the user's that says what LEAVES says of ours
COUNTER = ".num_batches_tracked"
TRACKED_MEAN = ".running_mean"


class Leaf(NamedTuple):
    """One leaf of a model and its name on the other side."""

    path: str  # ours: layer1.0.conv1.kernel
    key: str  # PyTorch's: layer1.0.conv1.weight
    variable: nnx.Variable
    axes: Axes
    flattened: bool  # whether PyTorch's tensor has all its axes after the first in one
    nameless: str  # why there is no certain name on the other side; empty where there is

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

    Where a model has `torch_names`, PyTorch's calls whole parts otherwise (`detectors/torchvision/names.py`). The
    layers of an `nnx.Sequential` lie in its `layers`, those of PyTorch's in itself.

    Raises:
        UserError: two leaves would get one name, or the model holds arrays that have no path; see `walk`.
    """
    names: Sequence[tuple[str, str]] = getattr(model, "torch_names", ())
    sequences = sorted((path for path, part in modules(model) if isinstance(part, nnx.Sequential)), key=len)
    taken: dict[str, str] = {}
    for place in walk(model):
        torch_name, axes, nameless = _torch_leaf(place)
        key = place.path.removesuffix(place.name) + torch_name
        for path in reversed(sequences):
            start = f"{path}." if path else ""
            if key.startswith(f"{start}layers."):
                key = start + key.removeprefix(f"{start}layers.")
        key = place.path if nameless else _renamed(key, names)
        if key in taken:
            raise UserError(
                f"{taken[key]} and {place.path} of the {type(model).__name__} would both be called {key} in PyTorch; "
                "rename an attribute."
            )
        taken[key] = place.path
        flattened = isinstance(place.owner, LinearOverMap) and place.name == "kernel"
        yield Leaf(place.path, key, place.variable, axes, flattened, nameless)


def _torch_leaf(place: Place) -> tuple[str, Axes, str]:
    """The name and the axes of a leaf in PyTorch, and why they are not certain."""
    owner, kind = place.owner, type(place.owner)
    own: Mapping[str, tuple[str, Axes]] = getattr(owner, OWN_NAMES, {})
    if place.name in own:
        return *own[place.name], ""
    layer = next((one for one in kind.__mro__ if one in LEAVES), None)
    if layer is not None and place.name in LEAVES[layer]:
        name, axes = LEAVES[layer][place.name]
        return name, axes(len(place.variable.shape)), _uncertain(place)
    if kind.__module__.startswith("jaxft."):
        return place.name, None, ""
    example = f'{OWN_NAMES} = {{"{place.name}": ("weight", None)}}'
    reason = (
        f"{place.path} belongs to a {kind.__name__}, whose PyTorch name and axes are not known; say them in its class, "
        f"{example}, None or the axes of PyTorch's tensor in our order"
    )
    return place.name, None, reason


def _uncertain(place: Place) -> str:
    """Why a layer of Flax's computes what PyTorch's layer of the same kind does not; empty where it does."""
    owner = place.owner
    if isinstance(owner, nnx.ConvTranspose) and not owner.transpose_kernel:
        return (
            f"{place.path} belongs to an nnx.ConvTranspose whose kernel is PyTorch's turned around; make it with "
            "transpose_kernel=True"
        )
    if isinstance(owner, nnx.Conv | nnx.ConvTranspose) and owner.mask is not None:
        return (
            f"{place.path} belongs to a convolution with a mask, which PyTorch's has not; multiply it into the kernel"
        )
    return ""


def _renamed(key: str, names: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in names:
        new, count = re.subn(f"^{pattern}", replacement, key)
        if count:
            return new
    return key
