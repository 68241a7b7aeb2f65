"""Layers taken out of a model, and a model put together from parts of others."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxft.models.layers import Sequential
from jaxft.surgery.editing import edit, images_for
from jaxft.surgery.places import find
from jaxft.surgery.steps import Own
from jaxft.surgery.tracing import seen


def extract(model: nnx.Module, path: str, *, image_size: int | None = None) -> Any:
    """A copy of a layer with its values, which shares nothing with the model; a function as it is.

    Args:
        model: with values or abstract.
        path: see `jaxft.edits`; of a range, such as `layer4[0:2]` or `conv1..layer2`, it is a Sequential.
        image_size: as of `jaxft.surgery.edit`; parts of a module are in the order in which it calls them.

    Raises:
        UserError: there is no such layer; the nearest names are given.
    """
    calls = seen(model, images_for(model, image_size)).calls if ".." in path else []
    order = [call.path for call in sorted(calls, key=lambda call: call.begin)]
    layers = [place.layer for place in find(model, path, order)]
    copies = [nnx.clone(layer) if isinstance(layer, nnx.Module) else layer for layer in layers]
    return Sequential(copies) if ".." in path or ":" in path else copies[0]


def assemble(model: nnx.Module, parts: Mapping[str, nnx.Module | tuple[nnx.Module, str]], **options: Any) -> nnx.Module:
    """A copy of a model with parts of others: `assemble(faster_rcnn, {"backbone": other, "neck": (third, "neck")})`.

    Args:
        model: what the rest is of.
        parts: for the path of a part, the model to take the part of this path from, or that model and another path in
            it. All parts are copied with their values.
        options: as of `jaxft.surgery.edit`.

    Raises:
        UserError: a path names nothing, or the parts do not go together; the shapes are given.
    """
    sources = {path: part if isinstance(part, tuple) else (part, path) for path, part in parts.items()}
    copied = nnx.clone(model)
    edit(copied, [Own(extract(*source), path=path) for path, source in sources.items()], **options)
    return copied
