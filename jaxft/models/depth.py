"""How deep in a network its parameters lie, counted in blocks: what rates that fall towards the input go by."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend
from flax import nnx

from jaxft.models.layers.rematerialization import is_block
from jaxft.models.paths import filled, modules, path_name, values


def depths(model: nnx.Module, forward: Callable[[Any], Any]) -> dict[str, int]:
    """The depth of every parameter and statistic, by dotted path.

    What is used before the first block (the stem, a class token, position embeddings) has depth 0, the parts of the
    n-th block have depth n, and so has what is used between it and the next one; what comes after the last of N blocks
    has depth N + 1, so that a layer decay d gives it d ** 0 of the rate and the stem d ** (N + 1), as BEiT's does
    (https://arxiv.org/abs/2106.08254). A block is a residual, dense, Inception or transformer block in a row of such. A
    detector's blocks are its backbone's, and all else comes after them. Without blocks everything has depth 1.

    Args:
        model: it may be abstract.
        forward: what the model does, such as `lambda model: model(images)`; it is traced to see the order.
    """
    used = _first_used(model, forward)
    backbone = getattr(model, "backbone", None)
    prefix = "" if backbone is None else "backbone."
    members = {
        block: [path for path in used if path.startswith(f"{prefix}{block}.")]
        for block in _blocks(model if backbone is None else backbone)
    }
    begins = {block: min((used[path] for path in paths), default=math.inf) for block, paths in members.items()}
    begins = {block: begin for block, begin in begins.items() if begin < math.inf}  # without auxiliary heads
    rank = {block: number for number, block in enumerate(sorted(begins, key=begins.__getitem__), 1)}
    inside = {path: rank[block] for block, paths in members.items() if block in rank for path in paths}
    last = len(rank) + 1

    def outside(path: str) -> int:
        before = sum(begin < used[path] for begin in begins.values())
        return last if before == len(rank) or not path.startswith(prefix) else before

    return {path: inside.get(path) or outside(path) for path in used}


def _first_used(model: nnx.Module, forward: Callable[[Any], Any]) -> dict[str, float]:
    """When each array is used for the first time, as a number of the operation; infinite for what is not."""
    arrays = values(model)
    jaxpr = jax.make_jaxpr(lambda arrays: forward(filled(model, arrays)))(arrays).jaxpr
    first = dict[Any, int]()
    for number, operation in enumerate(jaxpr.eqns):
        for variable in operation.invars:
            if not isinstance(variable, jax.extend.core.Literal):
                first.setdefault(variable, number)
    return {path: first.get(variable, math.inf) for path, variable in zip(sorted(arrays), jaxpr.invars, strict=True)}


def _blocks(model: nnx.Module) -> list[str]:
    """The paths of the blocks of a model, but for those in other blocks."""
    rows = set[str]()
    for path, module in modules(model):
        parts = _parts(module)
        kinds = Counter(type(part) for part in parts.values() if is_block(part))
        whole = isinstance(module, nnx.List | nnx.Dict) or getattr(module, "ROW", False)
        found = (name for name, part in parts.items() if is_block(part) and (whole or kinds[type(part)] > 1))
        rows |= {f"{path}.{name}".removeprefix(".") for name in found}
    return [row for row in sorted(rows) if not any(row.startswith(f"{other}.") for other in rows)]


def _parts(module: nnx.Module) -> Mapping[str, Any]:
    """What a module holds, by the last part of its path."""
    if isinstance(module, nnx.List):
        return {str(index): part for index, part in enumerate(module)}
    if isinstance(module, Mapping):
        return {str(name): part for name, part in module.items()}
    return {path_name(name): part for name, part in vars(module).items()}
