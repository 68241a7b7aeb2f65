"""Where things are in a model: dotted paths as PyTorch writes them, and patterns over them."""

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax import Array

from jaxft.errors import UserError

PLAIN = (bool, int, float, str, bytes, type(None), type)
# The state of random streams, which every step sets anew, and what a forward pass leaves behind.
PASSING = (nnx.RngState, nnx.Intermediate, nnx.Perturbation)


class Place(NamedTuple):
    """Where a parameter or a statistic is."""

    path: str  # layer1.0.conv1.kernel
    owner: nnx.Module
    name: str  # kernel
    variable: nnx.Variable


Found = tuple[str, Place | nnx.Module]


def matches(pattern: str, path: str) -> bool:
    """Whether `path` (`layer1.0.conv1.kernel`) is, or lies below, something that the shell-style `pattern` names.

    `fc` is the subtree `fc`; `layer[12]` two subtrees; `*.bn1` every `bn1` at any depth; `*` everything.
    """
    parts = path.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def path_name(attribute: str) -> str:
    """What an attribute is called in paths: without the `_` that ends names taken by a method, as in `features_`."""
    return attribute.removesuffix("_")


def walk(module: nnx.Module) -> Iterator[Place]:
    """Every parameter and statistic of a model, in the order of its attributes.

    They may be in modules, lists, tuples and dictionaries, in any order inside each other.

    Raises:
        UserError: something that holds arrays has no path here: a parameter inside another kind of object, a variable
            of another kind than `nnx.Param` and `nnx.BatchStat`, two of one path, or a module inside itself.
    """
    seen = set()
    for path, module_or_place in _visit(module, "", (module,)):
        if isinstance(module_or_place, Place):
            if path in seen:
                raise UserError(f"Two arrays of the {type(module).__name__} have the path {path}; rename an attribute.")
            seen.add(path)
            yield module_or_place


def modules(module: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Every module below a model, in the order of its attributes, the model itself under the empty path first.

    Raises:
        UserError: as `walk`.
    """
    yield "", module
    for path, module_or_place in _visit(module, "", (module,)):
        if not isinstance(module_or_place, Place):
            yield path, module_or_place


def _visit(module: nnx.Module, prefix: str, outer: tuple[Any, ...]) -> Iterator[Found]:
    """What lies below a module that lies inside `outer`, depth first: places, and modules before what is in them."""
    for name, value in vars(module).items():
        if isinstance(value, nnx.Param | nnx.BatchStat):
            yield prefix + name, Place(prefix + name, module, name, value)
        elif not isinstance(value, PLAIN):
            yield from _inside(value, prefix + path_name(name), module, outer)


def _inside(value: Any, path: str, owner: nnx.Module, outer: tuple[Any, ...]) -> Iterator[Found]:
    """The same of a value at a path that is, or is in a container that is, an attribute of `owner`."""
    if any(value is one for one in outer):
        raise UserError(f"{path} of the model is a part that it lies in itself; give every array one path.")
    if isinstance(value, nnx.Param | nnx.BatchStat):
        yield path, Place(path, owner, path.rpartition(".")[2], value)
    elif isinstance(value, nnx.Module):
        yield path, value
        yield from _visit(value, f"{path}.", (*outer, value))
    elif isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            if not isinstance(item, PLAIN):
                yield from _inside(item, f"{path}.{key}", owner, (*outer, value))
    elif not isinstance(value, PASSING) and _holds_variables(value):
        kind = type(value).__name__
        raise UserError(
            f"{path} of the model is a {kind}, whose arrays jaxft does not see; it knows nnx.Param and nnx.BatchStat, "
            "in modules, lists, tuples and dictionaries."
        )


def _holds_variables(value: Any) -> bool:
    """Whether a value that is neither a module nor a plain container is, or has in it, a variable of Flax."""
    kinds = (nnx.Variable, nnx.Module)
    parts = jax.tree.leaves(value, is_leaf=lambda part: isinstance(part, kinds))
    parts += [*getattr(value, "__dict__", {}).values(), getattr(value, "__self__", None)]
    # A copy of a model shares its functions, so that what they hold would be the original's arrays.
    for cell in getattr(value, "__closure__", None) or ():
        with suppress(ValueError):  # nothing is in it yet
            parts.append(cell.cell_contents)
    if isinstance(value, partial):
        parts += [value.func, *value.args, *value.keywords.values()]
    return any(isinstance(part, kinds) and not isinstance(part, PASSING) for part in parts)


def values(module: nnx.Module, kind: type[nnx.Variable] = nnx.Variable) -> dict[str, Array]:
    """The arrays of a model's parameters and statistics, or of one of the two kinds, by dotted path."""
    return {place.path: place.variable.get_value() for place in walk(module) if isinstance(place.variable, kind)}


def filled(template: nnx.Module, arrays: Mapping[str, Array]) -> nnx.Module:
    """A copy of `template` (which may be abstract) that holds `arrays`, given by dotted path, all of them."""
    model = nnx.clone(template)
    for place in walk(model):
        place.variable.set_value(arrays[place.path])
    return model
