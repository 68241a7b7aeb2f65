"""The single settings of a configuration, and what it takes to change one: for tests that try each of them."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from converters.mmdet.model import parse, with_classes
from converters.mmdet.training import Reading, understood
from jaxft.errors import UserError

Key = tuple[str | int, ...]


def leaves(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every setting that is no dictionary and no list of dictionaries, with the keys that lead to it."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from leaves(item, (*key, name))
    elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from leaves(item, (*key, index))
    else:
        yield key, value


def pattern(config: Any, key: Key) -> str:
    """The keys as text, with the `type` of an entry in the place of its number in a list."""
    parts, place = [], config
    for part in key:
        place = place[part]
        name = place.get("type", "") if isinstance(part, int) and isinstance(place, Mapping) else part
        parts.append(str(name))
    return ".".join(parts)


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list | tuple) and value:
        return type(value)([changed(value[0]), *value[1:]])
    return "x"


MISSING = object()


def with_value(config: Mapping[str, Any], key: Key, value: Any) -> dict[str, Any]:
    """A copy of a configuration with another value at a place, or without it."""
    copied = copy.deepcopy(dict(config))
    place: Any = copied
    for part in key[:-1]:
        place = place[part]
    if value is MISSING:
        del place[key[-1]]
    else:
        place[key[-1]] = value
    return copied


def result(config: Mapping[str, Any]) -> tuple[Reading, Any]:
    """What becomes of a configuration: the reading without the text of its model, and the model's constructor."""
    reading = understood(config)
    settings = reading.config
    part = parse(with_classes(settings.model.mmdet or {}, None))
    plain = dataclasses.replace(settings, model=dataclasses.replace(settings.model, mmdet=None))
    return Reading(plain, reading.ignored), made_of(part)


def made_of(part: Any) -> Any:
    """A constructor as values that can be compared: its function, its arguments, and what it has closed over."""
    if isinstance(part, functools.partial):
        return part.func, made_of(part.args), made_of(part.keywords)
    if isinstance(part, Mapping):
        return {name: made_of(item) for name, item in part.items()}
    if isinstance(part, list | tuple):
        return [made_of(item) for item in part]
    if isinstance(part, Callable) and getattr(part, "__closure__", None):  # type: ignore[arg-type]
        return part.__qualname__, [made_of(cell.cell_contents) for cell in part.__closure__]
    return part.tolist() if isinstance(part, np.ndarray) else part


def _ignored(path: str, reading: Reading) -> bool:
    return any(path == entry.key or path.startswith(f"{entry.key}.") for entry in reading.ignored)


def silent(config: Mapping[str, Any], before: tuple[Reading, Any], key: Key, value: Any) -> str | None:
    """How a setting is taken in silence: neither a change of it nor its absence has an effect, an error that names it,
    or a reason why it is ignored. None where that is not so."""
    path = ".".join(map(str, key))
    if _ignored(path, before[0]):
        return None
    told = []
    for other in (changed(value), MISSING):
        try:
            after = result(with_value(config, key, other))
        except UserError as error:
            if any(name in str(error) for name in (*map(str, key[-3:]), str(other))):
                return None
            told.append(f"refused without its name: {error}")
            continue
        if after[0].config != before[0].config or after[1] != before[1] or _ignored(path, after[0]):
            return None
        told.append("without it nothing changes" if other is MISSING else f"{other!r} changes nothing")
    return f"{path} = {value!r}: {'; '.join(told)}"
