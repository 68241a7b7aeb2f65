"""Layers from their fields: which sizes they get where they come, whether they fit there, and the layers themselves."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft import edits
from jaxft.errors import UserError
from jaxft.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    FlatLinear,
    FrozenBatchNorm,
    GroupNorm,
    LayerNorm,
    Linear,
    LinearOverMap,
    flatten,
    gelu,
    hard_sigmoid,
    hard_swish,
    relu6,
)
from jaxft.models.layers.attention import MultiheadAttention
from jaxft.models.layers.pooling import AdaptiveAveragePool, AveragePool, MaxPool

Shape = tuple[int, ...]
Function = Callable[[Array], Array]
ACTIVATIONS: dict[str, Function] = {
    "ReLU": nnx.relu,
    "ReLU6": relu6,
    "SiLU": nnx.silu,
    "GELU": gelu,
    "ELU": nnx.elu,
    "Mish": jax.nn.mish,
    "Hardswish": hard_swish,
    "Hardsigmoid": hard_sigmoid,
    "Sigmoid": nnx.sigmoid,
    "Tanh": jnp.tanh,
}

LIGHT = (
    edits.Activation,
    edits.LeakyReLU,
    edits.Identity,
    edits.MaxPool2d,
    edits.AvgPool2d,
    edits.AdaptiveAvgPool2d,
    edits.Flatten,
)
"""Fields of layers that are functions, without arrays."""


class Misfit(Exception):
    """A layer does not take what comes in; the message says what it takes."""


@dataclass(frozen=True)
class LeakyReLU:
    """`torch.nn.LeakyReLU`."""

    slope: float

    def __call__(self, x: Array) -> Array:
        return nnx.leaky_relu(x, self.slope)


def identity(x: Array) -> Array:
    """`torch.nn.Identity`."""
    return x


def sized(fields: edits.AnyLayer, shape: Shape, num_classes: int | None, *, flat: bool) -> edits.AnyLayer:
    """The fields of a layer with every size, but for the number of classes, which stays None.

    Args:
        shape: of what comes in, `[N, ..., C]`.
        flat: whether a `Linear` that does not say so takes a feature map as one vector.

    Raises:
        Misfit: it does not take that.
        UserError: a layer of unknown size wants the number of classes, which is not known.
    """
    channels = shape[-1]
    match fields:
        case edits.Conv2d():
            _need_map("Conv2d", shape)
            if fields.out_channels is None and num_classes is None:
                raise UserError(
                    "Conv2d has no out_channels, and the number of classes is not known; give out_channels."
                )
            if channels % fields.groups or (fields.out_channels or num_classes or 0) % fields.groups:
                raise Misfit(f"its groups ({fields.groups}) must divide its channels, {channels} and out_channels")
            return replace(fields, in_channels=_agreed(fields.in_channels, channels, "in_channels"))
        case edits.Linear():
            if fields.out_features is None and num_classes is None:
                raise UserError(
                    "Linear has no out_features, and the number of classes is not known; give out_features."
                )
            whole = math.prod(shape[1:])
            flattens = fields.flatten
            if flattens is None:
                flattens = len(shape) == 4 and (
                    flat if fields.in_features is None else fields.in_features == whole != channels
                )
            wanted = whole if flattens else channels
            return replace(fields, in_features=_agreed(fields.in_features, wanted, "in_features"), flatten=flattens)
        case edits.BatchNorm():
            if len(shape) != (4 if fields.type == "BatchNorm2d" else 2):
                raise Misfit(
                    "it takes feature maps [N, H, W, C]" if fields.type == "BatchNorm2d" else "it takes [N, C]"
                )
            return replace(fields, num_features=_agreed(fields.num_features, channels, "num_features"))
        case edits.LayerNorm():
            return replace(fields, normalized_shape=_agreed(fields.normalized_shape, channels, "normalized_shape"))
        case edits.GroupNorm():
            _need_map("GroupNorm", shape)
            if channels % fields.num_groups:
                raise Misfit(f"its num_groups ({fields.num_groups}) must divide the {channels} channels")
            return replace(fields, num_channels=_agreed(fields.num_channels, channels, "num_channels"))
        case edits.Dropout(type="Dropout2d") | edits.MaxPool2d() | edits.AvgPool2d() | edits.AdaptiveAvgPool2d():
            _need_map(fields.type, shape)
    return fields


def _need_map(kind: str, shape: Shape) -> None:
    if len(shape) != 4:
        raise Misfit(f"a {kind} takes feature maps [N, H, W, C]")


def _agreed(told: int | None, found: int, name: str) -> int:
    if told not in (None, found):
        raise Misfit(f"its {name} is {told}")
    return found


def layer_of(fields: edits.AnyLayer, num_classes: int | None, rngs: nnx.Rngs) -> nnx.Module | Function:
    """The layer of fields with every size, freshly drawn as PyTorch draws it."""
    match fields:
        case edits.Conv2d():
            return Conv(
                _known(fields.in_channels),
                _known(num_classes if fields.out_channels is None else fields.out_channels),
                fields.kernel_size,
                stride=fields.stride,
                padding=fields.padding,
                dilation=fields.dilation,
                groups=fields.groups,
                bias=fields.bias,
                rngs=rngs,
            )
        case edits.Linear():
            kind = FlatLinear if fields.flatten else Linear
            outputs = _known(num_classes if fields.out_features is None else fields.out_features)
            return kind(_known(fields.in_features), outputs, bias=fields.bias, rngs=rngs)
        case edits.BatchNorm():
            return BatchNorm(_known(fields.num_features), eps=fields.eps, momentum=fields.momentum)
        case edits.LayerNorm():
            return LayerNorm(_known(fields.normalized_shape), eps=fields.eps)
        case edits.GroupNorm():
            return GroupNorm(fields.num_groups, _known(fields.num_channels), eps=fields.eps)
        case edits.Dropout():
            return nnx.Dropout(fields.p, broadcast_dims=(1, 2) if fields.type == "Dropout2d" else (), rngs=rngs)
        case edits.Activation():
            return ACTIVATIONS[fields.type]
        case edits.LeakyReLU():
            return LeakyReLU(fields.negative_slope)
        case edits.MaxPool2d():
            stride = fields.kernel_size if fields.stride is None else fields.stride
            return MaxPool(fields.kernel_size, stride, fields.padding, fields.ceil_mode)
        case edits.AvgPool2d():
            stride = fields.kernel_size if fields.stride is None else fields.stride
            return AveragePool(fields.kernel_size, stride, fields.padding)
        case edits.AdaptiveAvgPool2d():
            return AdaptiveAveragePool(fields.output_size)
        case edits.Flatten():
            return flatten
    return identity


def _known(size: int | None) -> int:
    if size is None:
        raise UserError("A layer's size is not known; nothing that the network does calls it.")
    return size


def check_fits(layer: Any, shape: Shape) -> None:
    """Looks whether a layer takes what comes in, which a sum of broadcast arrays would not say.

    Raises:
        Misfit: it does not.
    """
    if isinstance(layer, LinearOverMap):
        wanted = tuple(layer.kernel.shape[:-1])
        if shape[1:] != wanted:
            raise Misfit(f"it takes (N, {', '.join(map(str, wanted))})")
    elif isinstance(layer, FlatLinear):
        if math.prod(shape[1:]) != layer.kernel.shape[0]:
            raise Misfit(f"it takes {layer.kernel.shape[0]} numbers")
    else:
        channels = _channels(layer)
        if channels is not None and shape[-1] != channels:
            raise Misfit(f"it takes {channels} channels")


def _channels(layer: Any) -> int | None:
    """The channels that a layer takes; None of what takes any."""
    match layer:
        case Conv():
            return int(layer.kernel.shape[2]) * layer.groups
        case ConvTranspose():
            return int(layer.kernel.shape[2])
        case Linear():
            return int(layer.kernel.shape[0])
        case BatchNorm() | FrozenBatchNorm() | GroupNorm() | LayerNorm():
            return int(layer.scale.shape[0])
        case MultiheadAttention():
            return int(layer.in_proj_kernel.shape[0])
        case nnx.Linear() | nnx.Conv():
            return int(layer.in_features)
        case nnx.BatchNorm() | nnx.LayerNorm():
            return int(layer.num_features)
    return None


def refitted(layer: Any, num_classes: int | None) -> edits.AnyLayer | None:
    """The fields of a layer of the same kind for other inputs; None where there is none.

    Args:
        num_classes: the outputs in the place of which the fields have None.
    """
    match layer:
        case LinearOverMap() | FlatLinear() | Linear():
            outputs = int(layer.kernel.shape[-1])
            linear = partial(edits.Linear, bias=layer.bias is not None, flatten=type(layer) is not Linear)
            return linear(out_features=None if outputs == num_classes else outputs)
        case Conv() if layer.groups == 1 and not isinstance(layer.padding, str):
            channels = int(layer.kernel.shape[-1])
            return edits.Conv2d(
                out_channels=None if channels == num_classes else channels,
                kernel_size=layer.size,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                bias=layer.bias is not None,
            )
        case BatchNorm():
            return edits.BatchNorm(eps=layer.eps, momentum=layer.momentum)
        case LayerNorm():
            return edits.LayerNorm(eps=layer.eps)
    return None
