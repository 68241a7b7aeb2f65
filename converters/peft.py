"""Low-rank additions alone, in the layout of PEFT 0.21: a folder of adapter_config.json and adapter_model.safetensors.

PEFT's names: `base_model.model.PATH.lora_A.weight`, where PATH is the layer's. With self-attention it wraps the output
projection, `PATH.base_layer.out_proj.lora_A.weight`, to which nothing is added here: these are zeros. Layers that train
whole (`modules_to_save`), such as a new head, are there under their own names.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.files import read, write
from converters.rules import Leaf, leaves
from jaxft.adapters.low_rank import NAME, additions
from jaxft.errors import UserError
from jaxft.models.layers.attention import MultiheadAttention
from jaxft.models.paths import matches

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def save_adapter(model: nnx.Module, folder: Path, *, whole: Collection[str] = (), base: str | None = None) -> None:
    """Writes the additions of a model, and the layers that train whole.

    Args:
        folder: made where it is missing; the two files in it are replaced.
        whole: paths of layers to write whole.
        base: where the weights of the network come from, for PEFT's `base_model_name_or_path`.

    Raises:
        UserError: the folder cannot be written, or the model has no additions, or such of several ranks or scales,
            of which PEFT's file says one.
    """
    found = list(additions(model))
    if not found:
        raise UserError(
            f"This {type(model).__name__} has no low-rank additions to write as an adapter; train one with "
            "--model.lora.rank, or choose another --format."
        )
    kinds = {(addition.lora_A.kernel.shape[-1], addition.scaling, addition.dropout.rate) for _, _, addition in found}
    if len(kinds) > 1:
        raise UserError(
            f"The additions of this {type(model).__name__} have {len(kinds)} ranks or scales; PEFT has one."
        )
    ((rank, scaling, dropout),) = kinds
    targets = "|".join(re.escape(_torch_path(model, path)) for path, _, _ in found)
    state = {key: leaf.to_torch(np.asarray(leaf.variable[...])) for key, leaf in _names(model, whole).items()}
    state |= _unused(model)
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": scaling * rank,
        "lora_dropout": dropout,
        "target_modules": f"^(?:{targets})$",  # a list would name every layer that ends so
        "modules_to_save": [_torch_path(model, path) for path in whole] or None,
        "bias": "none",
        "task_type": None,
        "inference_mode": True,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)  # without which the folder is no adapter, until all is there
        write(state, folder / WEIGHTS, {"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); choose another folder.") from error


def load_adapter(model: nnx.Module, folder: Path, *, whole: Collection[str] = ()) -> None:
    """Fills the additions of a model, and the layers that train whole, in place, from what `save_adapter` or PEFT has
    written.

    Args:
        model: with additions of the same rank and scaling on the same layers (see `jaxft.adapters.low_rank.add_lora`).

    Raises:
        UserError: the folder is no adapter of this model; what does not fit is named.
    """
    try:
        settings = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} cannot be read ({error}); an adapter of PEFT has one.") from error
    if odd := [name for name in ("alpha_pattern", "rank_pattern", "use_dora") if settings.get(name)]:
        raise UserError(f"{folder / CONFIG} sets {odd[0]}, which jaxft has not; merge the adapter with PEFT instead.")
    scalings = {addition.scaling for _, _, addition in additions(model)}
    theirs = settings.get("lora_alpha", 8) / (settings.get("r", 8) ** (0.5 if settings.get("use_rslora") else 1))
    if scalings != {theirs}:
        raise UserError(
            f"{folder} multiplies its additions by {theirs:g}, the model by {sorted(scalings)}; change alpha."
        )
    state, targets = read(folder / WEIGHTS), _names(model, whole)
    for key in _unused(model):
        product = state.pop(key, None)
        if key.endswith("lora_B.weight") and product is not None and np.any(product):
            raise UserError(f"{folder} adds to the output projection of self-attention ({key}), which jaxft does not.")
    problems = [f"{key} has no place in the model" for key in state if key not in targets]
    problems += [f"{key} is missing" for key in targets if key not in state]
    problems += [
        f"{key} is {tuple(state[key].shape)} there and {leaf.source_shape} here"
        for key, leaf in targets.items()
        if key in state and tuple(state[key].shape) != leaf.source_shape
    ]
    if problems:
        raise UserError(f"{folder} does not fit the model: {'; '.join(problems[:5])}{'; ...' * (len(problems) > 5)}.")
    for key, leaf in targets.items():
        leaf.variable.set_value(jnp.asarray(leaf.from_torch(np.asarray(state[key])), leaf.variable.dtype))


def _names(model: nnx.Module, whole: Collection[str]) -> Mapping[str, Leaf]:
    """The leaves of an adapter by PEFT's names."""
    found = {}
    for leaf in leaves(model):
        if f".{NAME}." not in f".{leaf.path}" and not any(matches(path, leaf.path) for path in whole):
            continue
        key = re.sub(rf"(^|\.){NAME}\.lora_", r"\1lora_", leaf.key)
        found[PREFIX + key] = leaf
    return found


def _unused(model: nnx.Module) -> dict[str, np.ndarray]:
    """What PEFT's file has for output projections of self-attention: zeros."""
    found = {}
    for path, layer, addition in additions(model):
        if isinstance(layer, MultiheadAttention):
            start, rank = f"{PREFIX}{path}.base_layer.out_proj", addition.lora_A.kernel.shape[-1]
            inputs, outputs = layer.out_proj.kernel.shape
            found[f"{start}.lora_A.weight"] = np.zeros((rank, inputs), np.float32)
            found[f"{start}.lora_B.weight"] = np.zeros((outputs, rank), np.float32)
    return found


def _torch_path(model: nnx.Module, path: str) -> str:
    """PyTorch's path of a layer."""
    return next(leaf.key.rpartition(".")[0] for leaf in leaves(model) if leaf.path.rpartition(".")[0] == path)
