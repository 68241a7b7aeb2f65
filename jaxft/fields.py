"""Configurations as frozen dataclasses of plain values: declared, changed by dotted path, compared, explained."""

import dataclasses
import difflib
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic.fields import FieldInfo

from jaxft.errors import UserError

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
Option = bool | int | float | str | tuple[int | float, ...]
Check = Literal["full", "headers", "none"]
"""How photos are looked at before the first step; see `jaxft.config.Data.check`."""
HeightWidth = tuple[int, int]
ThreePositive = tuple[pydantic.PositiveFloat, pydantic.PositiveFloat, pydantic.PositiveFloat]


def ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    """Two numbers of which the first is not the larger one; a ValueError where it is."""
    if bounds[0] > bounds[1]:
        raise ValueError("the first of the two numbers must not be larger than the second")
    return bounds


Bounds = Annotated[tuple[pydantic.PositiveFloat, pydantic.PositiveFloat], pydantic.AfterValidator(ascending)]
"""The smallest and the largest of what is drawn: 0 < first <= second."""
Node = TypeVar("Node")


def replace(config: Node, changes: Mapping[str, Any]) -> Node:
    """A copy of a configuration with some fields changed: `replace(base, {"optimizer.momentum": 0.9})`.

    Keys are dotted paths; elements of tuples go by their index (`phases.0.epochs`). Neighbors in `changes` that belong
    to one group of fields change at once, because they may be right only together.

    Raises:
        UserError: a field is unknown (the nearest name is given) or its value is of the wrong type.
    """
    for group, paths in itertools.groupby(changes, lambda path: path.rpartition(".")[0]):
        values = {path: changes[path] for path in paths}
        config = _replace_within(config, group.split(".") if group else [], values)
    return config


def _replace_within(node: Any, parts: list[str], values: Mapping[str, Any]) -> Any:
    """A copy of `node` in which the group at `parts` has other values; these go by their whole paths."""
    if not parts:
        return _replace_here(node, {path.rpartition(".")[2]: (path, value) for path, value in values.items()})
    path = next(iter(values))
    inner = _replace_within(_child(node, path, parts[0]), parts[1:], values)
    return _replace_here(node, {parts[0]: (path, inner)})


def _replace_here(node: Any, values: Mapping[str, tuple[str, Any]]) -> Any:
    """A copy of `node` with other elements or fields: name -> (whole path, value)."""
    for name, (path, _) in values.items():
        _child(node, path, name)
    if isinstance(node, tuple):
        items = {int(name): value for name, (_, value) in values.items()}
        return tuple(items.get(index, item) for index, item in enumerate(node))
    try:
        return dataclasses.replace(node, **{name: value for name, (_, value) in values.items()})
    except pydantic.ValidationError as error:
        raise UserError(explain(error, {type(node).__name__: field_names(node)})) from error


def _child(node: Any, path: str, name: str) -> Any:
    """The element or field of `node` with a name; `path` is the whole one, for the error."""
    if isinstance(node, tuple):
        if not name.isdigit() or int(name) >= len(node):
            raise UserError(f"{path}: there are {len(node)} elements, numbered from 0; {name!r} is none of them.")
        return node[int(name)]
    if not dataclasses.is_dataclass(node):
        raise UserError(f"{path}: a plain value has no field {name!r}.")
    names = field_names(node)
    if name not in names:
        raise UserError(f"{path}: {type(node).__name__} has no field {name!r}; {_nearest(name, names)}.")
    return getattr(node, name)


def field_names(node: Any) -> list[str]:
    """The names of the fields of a dataclass or of an instance of one."""
    return [field.name for field in dataclasses.fields(node)]


def explain(error: pydantic.ValidationError, classes: Mapping[str, list[str]]) -> str:
    """What is wrong with the values of a configuration, in a sentence a field.

    Args:
        classes: the fields of each dataclass by its name, to suggest the nearest one.
    """
    lines = []
    for problem in error.errors():
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            # The name of the innermost class that was being built is all that pydantic tells.
            name = where.rpartition(".")[2]
            names = classes.get(error.title, []) if len(problem["loc"]) == 1 else []
            lines.append(f"unknown field {where!r} in {error.title}" + (f"; {_nearest(name, names)}" if names else ""))
        else:
            message = problem["msg"].removeprefix("Value error, ")
            # What is wrong with a dataclass as a whole says itself what was found.
            found = f", found {problem['input']!r}" if where and not dataclasses.is_dataclass(problem["input"]) else ""
            lines.append(f"{'.'.join(filter(None, (error.title, where)))}: {message}{found}")
    return "; ".join(lines) + "."


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(names)}"


def differences(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ: dotted path -> (value in `one`, value in `other`).

    A field that only one of them has, such as one of a further phase, has None for the other.
    """
    first, second = flat(one), flat(other)
    return {path: (first.get(path), second.get(path)) for path in first | second if first.get(path) != second.get(path)}


def changed(value: Any, path: str = "") -> dict[str, Any]:
    """The fields of a configuration that are not what they are by default, by dotted path; those without a default,
    too."""
    if isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    elif dataclasses.is_dataclass(value):
        items = [
            (field.name, here)
            for field in dataclasses.fields(value)
            if (here := getattr(value, field.name)) != _default(field) or field.name in ("kind", "type")
        ]
    else:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in changed(item, f"{path}.{name}".strip(".")).items()}


def _default(field: dataclasses.Field) -> Any:
    """What a field of pydantic's or the standard library's is by default; `MISSING` for none."""
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if isinstance(default, FieldInfo):
        return default.get_default(call_default_factory=True)
    return default


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every plain value of a configuration by its dotted path."""
    if dataclasses.is_dataclass(value):
        items = [(name, getattr(value, name)) for name in field_names(value)]
    elif isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in flat(item, f"{path}.{name}".strip(".")).items()}
