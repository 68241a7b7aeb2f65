"""Where things are in a model: dotted paths as PyTorch writes them, and patterns over them."""

import fnmatch
from collections.abc import Iterator, Mapping

from flax import nnx
from jax import Array


def matches(pattern: str, path: str) -> bool:
    """Whether `path` (`layer1.0.conv1.kernel`) is, or lies below, something that the shell-style `pattern` names.

    `fc` is the subtree `fc`; `layer[12]` two subtrees; `*.bn1` every `bn1` at any depth; `*` everything.
    """
    parts = path.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def path_name(attribute: str) -> str:
    """What an attribute is called in paths: without the `_` that ends names taken by a method, as in `features_`."""
    return attribute.removesuffix("_")


def walk(module: nnx.Module, prefix: str = "") -> Iterator[tuple[str, nnx.Module, str, nnx.Variable]]:
    """Every parameter and statistic of a model, sorted by name: (path, owner, leaf name, variable)."""
    for name, value in vars(module).items():
        if isinstance(value, nnx.Param | nnx.BatchStat):
            yield prefix + name, module, name, value
        elif isinstance(value, nnx.Module):
            yield from walk(value, f"{prefix}{path_name(name)}.")


def modules(module: nnx.Module, prefix: str = "") -> Iterator[tuple[str, nnx.Module]]:
    """Every module below a model, sorted by name, the model itself under the empty path first."""
    yield prefix.removesuffix("."), module
    for name, value in vars(module).items():
        if isinstance(value, nnx.Module):
            yield from modules(value, f"{prefix}{path_name(name)}.")


def values(module: nnx.Module, kind: type[nnx.Variable] = nnx.Variable) -> dict[str, Array]:
    """The arrays of a model's parameters and statistics, or of one of the two kinds, by dotted path."""
    return {path: variable.get_value() for path, _, _, variable in walk(module) if isinstance(variable, kind)}


def filled(template: nnx.Module, arrays: Mapping[str, Array]) -> nnx.Module:
    """A copy of `template` (which may be abstract) that holds `arrays`, given by dotted path, all of them."""
    model = nnx.clone(template)
    for path, _, _, variable in walk(model):
        variable.set_value(arrays[path])
    return model
