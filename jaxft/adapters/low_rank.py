"""Low-rank additions put onto the layers of a model, and merged into their kernels."""

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.adapters import Lora
from jaxft.errors import UserError
from jaxft.models.layers.attention import MultiheadAttention
from jaxft.models.layers.low_rank import Adaptable, adaptable, kernel_of
from jaxft.models.layers.low_rank import Lora as Addition
from jaxft.models.paths import matches, modules

NAME = "lora"
"""What an addition is called in its layer, and so the last part of the pattern of all of them, `*.lora`."""


def add_lora(model: nnx.Module, fields: Lora, *, head: Collection[str] = (), rngs: nnx.Rngs | None = None) -> None:
    """Gives layers of a model their additions, in place.

    A layer of self-attention gets one to its joint projection, and none to that of its output: PEFT 0.21, which wraps
    both, adds the latter twice (`MultiheadAttention.merge`, and in it the layer's own).

    Args:
        model: it may be abstract.
        head: paths of layers that train whole and get none.
        rngs: where first values are drawn; None makes shapes and types alone.

    Raises:
        UserError: a pattern names no layer that can have one.
    """
    for pattern, found in _chosen(model, fields.patterns, head).items():
        if not found:
            raise UserError(
                f"model.lora.patterns has {pattern!r}, which names no linear layer, convolution without groups or "
                f"self-attention besides the head (an output projection of attention has none); the parts of the "
                f"{type(model).__name__} are {_parts(model)}."
            )
    chosen = {path: layer for found in _chosen(model, fields.patterns, head).values() for path, layer in found.items()}
    for layer in chosen.values():
        make = partial(_addition, layer, fields)
        layer.lora = nnx.data(nnx.eval_shape(lambda make=make: make(nnx.Rngs(0))) if rngs is None else make(rngs))


def _addition(layer: Adaptable, fields: Lora, rngs: nnx.Rngs) -> Addition:
    return Addition(layer, rank=fields.rank, scaling=fields.alpha / fields.rank, dropout=fields.dropout, rngs=rngs)


def _chosen(
    model: nnx.Module, patterns: Collection[str], head: Collection[str]
) -> Mapping[str, Mapping[str, Adaptable]]:
    """By pattern, the layers that it names, by path."""
    layers = {path: layer for path, layer in modules(model) if adaptable(layer)}
    attention = {path for path, layer in layers.items() if isinstance(layer, MultiheadAttention)}
    free = {path: layer for path, layer in layers.items() if not any(matches(part, path) for part in head)}
    able = {path: layer for path, layer in free.items() if path.rpartition(".")[0] not in attention}
    return {pattern: {path: layer for path, layer in able.items() if matches(pattern, path)} for pattern in patterns}


def _parts(model: nnx.Module) -> str:
    return ", ".join(dict.fromkeys(path.partition(".")[0] for path, _ in modules(model) if path))


def additions(model: nnx.Module) -> Iterator[tuple[str, Adaptable, Addition]]:
    """The layers that have one: path, layer, addition."""
    for path, layer in modules(model):
        addition = getattr(layer, NAME, None)
        if isinstance(addition, Addition) and isinstance(layer, Adaptable):
            yield path, layer, addition


def merged(model: nnx.Module) -> nnx.Module:
    """A copy whose kernels have their additions in them (summed in float64), and which has none any more; the model
    itself where it has none."""
    if not any(additions(model)):
        return model
    copy = nnx.clone(model)
    for _, layer, addition in list(additions(copy)):
        kernel = kernel_of(layer)
        down, up = (np.asarray(part.kernel[...], np.float64) for part in (addition.lora_A, addition.lora_B))
        product = addition.scaling * (down @ up.reshape(up.shape[-2:]))
        kernel.set_value(jnp.asarray(np.asarray(kernel[...], np.float64) + product, kernel.dtype))
        layer.lora = None
    return copy


def check_trained(trained: Collection[str], model: nnx.Module) -> None:
    """Refuses rules that freeze every addition of a model.

    Raises:
        UserError: they do.
    """
    paths = [path for path, _, _ in additions(model)]
    if paths and not any(matches(f"{path}.{NAME}", name) for name in trained for path in paths):
        raise UserError(
            f"model.lora adds to {len(paths)} layers, but no rule trains what is added; put Rule(pattern='*.{NAME}') "
            "before the one that freezes the rest."
        )
