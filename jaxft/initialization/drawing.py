"""The first values of a model by rules of `jaxft.initialization`.

Deviations and ranges are PyTorch's (`torch.nn.init`), computed from the fans of PyTorch's layout. Every value depends
on the key, its path and its rule alone, not on what else is drawn.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxft.errors import UserError
from jaxft.initialization import (
    Caffe2Xavier,
    Checkpoint,
    Constant,
    Drawn,
    Initialize,
    Kaiming,
    Normal,
    TruncNormal,
    Uniform,
    Xavier,
)
from jaxft.models.detectors.backbones.context_block import MapNorm
from jaxft.models.layers import BatchNorm, Conv, ConvTranspose, GroupNorm, LayerNorm, Linear, LinearOverMap
from jaxft.models.paths import Place, matches, modules, walk

# What a rule may call each layer: its own name in PyTorch, and those of the classes that it is made from directly.
# Layers that count statistics over devices are the same here, so that both names mean both.
NAMES: dict[type[nnx.Module], tuple[str, ...]] = {
    Conv: ("Conv2d", "_ConvNd"),
    ConvTranspose: ("ConvTranspose2d", "_ConvTransposeNd"),
    Linear: ("Linear",),
    LinearOverMap: ("Linear",),
    BatchNorm: ("BatchNorm2d", "SyncBatchNorm", "_BatchNorm"),
    GroupNorm: ("GroupNorm",),
    LayerNorm: ("LayerNorm",),
    MapNorm: ("LayerNorm",),
}
WEIGHTS = ("kernel", "scale", "weight")


class Draw(NamedTuple):
    """How one leaf starts.

    Attributes:
        how: None for what PyTorch's layer draws by itself.
        weight: whether it is the weight of its layer, or else the bias.
        fans: fan_in and fan_out of the layer's weight; None of a vector, as normalization has.
        rule: the position of its rule.
    """

    how: Drawn | None
    weight: bool
    shape: tuple[int, ...]
    dtype: jnp.dtype
    fans: tuple[int, int] | None
    rule: int = 0

    def value(self, key: Array) -> Array:
        """The leaf's value, drawn from a key."""
        how = self.how
        if how is None and self.fans is not None:
            bound = 1 / math.sqrt(self.fans[0])  # of weight and bias alike
            return jax.random.uniform(key, self.shape, self.dtype, -bound, bound)
        if how is None or not self.weight:
            constant = float(self.weight) if how is None else how.first_bias
            return jnp.full(self.shape, constant, self.dtype)
        return _weight(how, self.fans or (0, 0), key, self.shape, self.dtype)


def _weight(how: Drawn, fans: tuple[int, int], key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    match how:
        case Constant():
            return jnp.full(shape, how.val, dtype)
        case Normal():
            return how.mean + how.std * jax.random.normal(key, shape, dtype)
        case TruncNormal():
            low, high = (how.a - how.mean) / how.std, (how.b - how.mean) / how.std
            drawn = how.mean + how.std * jax.random.truncated_normal(key, low, high, shape, dtype)
            return jnp.clip(drawn, how.a, how.b)  # which the rounding of a sum may leave
        case Uniform():
            return jax.random.uniform(key, shape, dtype, how.a, how.b)
        case Xavier():
            deviation, uniform = how.gain * math.sqrt(2 / sum(fans)), how.distribution == "uniform"
        case Kaiming():
            fan = fans[0] if how.mode == "fan_in" else fans[1]
            deviation, uniform = how.gain / math.sqrt(fan), how.distribution == "uniform"
        case Caffe2Xavier():
            deviation, uniform = 1 / math.sqrt(fans[0]), True
    if not uniform:
        return deviation * jax.random.normal(key, shape, dtype)
    bound = math.sqrt(3) * deviation
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _names(owner: nnx.Module) -> tuple[str, ...]:
    """What a rule may call a layer; nothing of what is none."""
    names = next((NAMES[kind] for kind in type(owner).__mro__ if kind in NAMES), ())
    return ("ConvWS2d", *names) if isinstance(owner, Conv) and owner.standardized else names


def _fans(owner: nnx.Module) -> tuple[int, int] | None:
    """fan_in and fan_out by PyTorch, whose weights are `[out, in / groups, *window]`, or `[in, out, *window]` where
    they are transposed: the second axis times the window, and the first axis times the window."""
    kernel = getattr(owner, "kernel", None)
    if kernel is None:
        return None
    *window, inputs, outputs = kernel.shape
    if isinstance(owner, LinearOverMap):
        return math.prod(window) * inputs, outputs
    fans = math.prod(window) * inputs, math.prod(window) * outputs
    return (fans[1], fans[0]) if isinstance(owner, ConvTranspose) else fans


def layer_leaves(model: nnx.Module) -> Iterator[tuple[Place, Draw]]:
    """The weights and biases of a model's layers, abstract or not, with what PyTorch draws them from by itself."""
    for place in walk(model):
        if _names(place.owner) and isinstance(place.variable, nnx.Param) and place.name in (*WEIGHTS, "bias"):
            variable = place.variable
            draw = Draw(None, place.name != "bias", tuple(variable.shape), variable.dtype, _fans(place.owner))
            yield place, draw


def draws(model: nnx.Module, rules: Sequence[Initialize]) -> dict[str, Draw]:
    """What rules draw in a model, abstract or not, by dotted path; later ones win. Checkpoints draw nothing.

    Raises:
        UserError: an override names a part that the model lacks, or a fan is asked of a layer that has none.
    """
    found: dict[str, Draw] = {}
    drawn = layer_leaves(model) if rules else ()
    leaves = [(place, draw) for place, draw in drawn if ".lora." not in place.path]  # which start as PEFT's do
    for index, rule in enumerate(rules):
        if not isinstance(rule.how, Checkpoint):
            for place, draw in leaves:
                if set(rule.layer) & set(_names(place.owner)):
                    found[place.path] = _by(rule.how, draw, place, index)
        for part in rule.override:
            _check_part(model, part.name)
            how = rule.how if part.how is None else part.how
            assert not isinstance(how, Checkpoint)  # which `Initialize` refuses
            for place, draw in leaves:
                if matches(part.name, place.path):
                    found[place.path] = _by(how, draw, place, index)
    return found


def _by(how: Drawn, draw: Draw, place: Place, rule: int) -> Draw:
    if draw.weight and draw.fans is None and isinstance(how, Xavier | Kaiming | Caffe2Xavier):
        raise UserError(
            f"{how.type} needs the fans of a kernel, but {place.path}, which it is to draw, is a vector; leave "
            f"{type(place.owner).__name__} out of the rule, or give a Constant for it."
        )
    return draw._replace(how=how, rule=rule)


def _check_part(model: nnx.Module, name: str) -> None:
    parts = [path for path, _ in modules(model) if path]
    if name not in parts:
        top = ", ".join(path for path in parts if "." not in path)
        raise UserError(
            f"An initialiser's override names {name!r}, which the {type(model).__name__} lacks; its parts are {top}."
        )


def fill(model: nnx.Module, drawn: Mapping[str, Draw], key: Array) -> None:
    """Draws leaves of a model, in place, by their dotted paths."""
    for place in walk(model):
        if place.path in drawn:
            own = jax.random.fold_in(key, zlib.crc32(place.path.encode()))
            place.variable.set_value(drawn[place.path].value(own))


def initialize(model: nnx.Module, rules: Sequence[Initialize], key: Array) -> None:
    """Draws what rules say of a model, in place, from a key; under a trace, too.

    Raises:
        UserError: as `draws`.
    """
    fill(model, draws(model, rules), key)
