"""Reading a part of an MMDetection configuration so that nothing in it is overlooked.

Of every entry a reader says one of four things: it takes it, it wants a single value of it, it ignores it and says why,
or another part of the reader takes it. What is left is refused by name.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pydantic
from flax import nnx

from jaxft.errors import UserError
from jaxft.models.layers import Conv
from jaxft.models.paths import matches, modules

Value = TypeVar("Value")
REQUIRED: Any = object()
Part = Callable[..., Any]  # a constructor that lacks `rngs` alone


class ConfigError(UserError):
    """A configuration holds something that this project does not build; `key` is where, `reason` what, in short."""

    def __init__(self, key: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.key, self.reason = key, reason


@dataclass(frozen=True)
class Ignored:
    """An entry that is passed over: its dotted path, its value, and why that is right or what differs for it."""

    key: str
    value: Any
    reason: str


class Section:
    """The dictionary at a dotted path (`model.backbone`; empty for a whole file).

    What nobody has taken from it when it is done is an error. `ignored` collects what is passed over; sections below
    one add to the same list.
    """

    def __init__(self, values: Any, path: str, ignored: list[Ignored] | None = None) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(path, f"{path} is no dict", f"{path} is {_short(values)}; a dict was expected.")
        self.values, self.path = dict(values), path
        self.ignored: list[Ignored] = [] if ignored is None else ignored

    def key(self, name: str) -> str:
        """The dotted path of one of its entries."""
        return f"{self.path}.{name}" if self.path else name

    def type(self, known: Sequence[str]) -> str:
        """The name of its class, without a scope or module, one of those known."""
        name = self.take("type", text).rpartition(".")[2]
        if name in known:
            return name
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        key = self.key("type")
        raise ConfigError(key, f"{key} = {name}", f"{key} is {name!r}, which jaxft does not build; {hint}")

    def take(self, name: str, convert: Callable[[Any], Value], default: Any = REQUIRED) -> Value:
        """The value of an entry, in the type that `convert` makes; `default`, where there is one, if it is missing or
        None."""
        key = self.key(name)
        if name not in self.values and default is REQUIRED:
            raise ConfigError(key, f"{key} is missing", f"{key} is missing.")
        value = self.values.pop(name, None)
        if value is None and default is not REQUIRED:
            return default
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            kind = getattr(convert, "__doc__", None) or "another value"
            raise ConfigError(
                key, f"{key} of another kind", f"{key} is {_short(value)}; {kind.rstrip('.').lower()} was expected."
            ) from error

    def section(self, name: str, default: Mapping[str, Any] = REQUIRED) -> "Section":
        """The dictionary below an entry."""
        key = self.key(name)
        if name not in self.values and default is REQUIRED:
            raise ConfigError(key, f"{key} is missing", f"{key} is missing.")
        return Section(self.values.pop(name, default), key, self.ignored)

    def optional(self, name: str) -> "Section":
        """The dictionary below an entry; an empty one where it is missing or None."""
        return Section(self.values.pop(name, None) or {}, self.key(name), self.ignored)

    def sections(self, name: str, count: int) -> "list[Section]":
        """As many dictionaries as given: those of a list, or the one that there is, each time."""
        value = self.values.get(name)
        if not isinstance(value, list | tuple):
            one = self.section(name)
            return [Section(one.values, one.path, self.ignored) for _ in range(count)]
        found = self.listed(name)
        if len(found) != count:
            key = self.key(name)
            raise ConfigError(key, f"{key} has another length", f"{key} has {len(found)} entries, {count} expected.")
        return found

    def listed(self, name: str) -> "list[Section]":
        """The dictionaries of a list, or the one that stands in its place; none where it is missing or None."""
        value = self.values.pop(name, None) or []
        if isinstance(value, Mapping):
            return [Section(value, self.key(name), self.ignored)]
        if not isinstance(value, list | tuple):
            raise ConfigError(
                self.key(name), f"{self.key(name)} is no list", f"{self.key(name)} is {_short(value)}, not a list."
            )
        return [Section(item, f"{self.key(name)}.{index}", self.ignored) for index, item in enumerate(value)]

    def has(self, name: str) -> bool:
        """Whether there is such an entry and it is not None."""
        return self.values.get(name) is not None

    def ignore(self, *names: str, because: str) -> None:
        """Passes over entries, for a reason that a person is told; those that are None say nothing."""
        for name in names:
            if (value := self.values.pop(name, None)) is not None:
                self.ignored.append(Ignored(self.key(name), value, because))

    def elsewhere(self, *names: str) -> None:
        """Leaves entries to another part of the reader, which takes them itself."""
        for name in names:
            self.values.pop(name, None)

    def pass_over(self, kind: str, *, because: str) -> None:
        """Passes over the whole section, which is of a kind."""
        self.ignored.append(Ignored(self.path, {"type": kind} | self.values, because))
        self.values.clear()

    def refused(self, name: str, value: Any, expected: str) -> ConfigError:
        """The error of an entry that has a value which jaxft does not know; `expected` ends the sentence."""
        key = self.key(name)
        return ConfigError(key, key, f"{key} is {_short(value)}; {expected}.")

    def fields(self, adapter: pydantic.TypeAdapter[Value], **beside: Any) -> Value:
        """All that is left, as the fields of a dataclass that has the same names; `beside` are further ones.

        Entries that are None say nothing.
        """
        given = {name: value for name, value in self.values.items() if value is not None} | beside
        try:
            made = adapter.validate_python(given)
        except pydantic.ValidationError as error:
            problem = error.errors(include_url=False)[0]
            names = [part for part in problem["loc"] if part not in (given.get("type"), "function-after")]
            key = ".".join([self.path, *map(str, names)])
            if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
                told = f"{key}: jaxft does not know this setting."
            elif problem["type"].startswith("missing"):
                told = f"{key} is missing."
            else:
                found = f" is {_short(problem['input'])}" if names else ""
                told = f"{key}{found}: {problem['msg'].removeprefix('Value error, ')}."
            raise ConfigError(key, key, told) from error
        self.values.clear()
        return made

    def standardizes(self) -> bool:
        """Whether `conv_cfg` asks for weight standardization; an error where it asks for anything but plain layers."""
        if self.has("conv_cfg") and _kind(self.values["conv_cfg"]) in ("ConvWS", "Conv", "Conv2d"):
            return _kind(self.values.pop("conv_cfg")) == "ConvWS"
        self.only(conv_cfg=None)
        return False

    def only(self, **expected: Any) -> None:
        """Entries that may be missing, but must have the given value where they are there."""
        for name, value in expected.items():
            found = self.values.pop(name, value)
            if _plain(found) != _plain(value):
                key = self.key(name)
                raise ConfigError(
                    key, key, f"{key} is {_short(found)}; jaxft knows {'none' if value is None else repr(value)} only."
                )

    def done(self) -> None:
        """Nothing may be left."""
        left = sorted(name for name, value in self.values.items() if value is not None)
        if left:
            keys = [self.key(name) for name in left]
            raise ConfigError(keys[0], keys[0], f"{', '.join(keys)}: jaxft does not know this setting.")


def grouped(ignored: Iterable[Ignored]) -> dict[str, list[str]]:
    """The keys that were passed over, by the reason; each once."""
    found: dict[str, list[str]] = {}
    for entry in ignored:
        keys = found.setdefault(entry.reason, [])
        if entry.key not in keys:
            keys.append(entry.key)
    return found


def _kind(value: Any) -> Any:
    return value.get("type") if isinstance(value, Mapping) and len(value) == 1 else value


def standardized(part: Callable[..., Any], *, below: str = "*") -> Callable[..., Any]:
    """A constructor whose convolutions at paths of the pattern `below` have standardized kernels."""

    def make(*, rngs: nnx.Rngs) -> Any:
        made = part(rngs=rngs)
        for path, module in modules(made):
            if isinstance(module, Conv) and matches(below, path):
                module.standardized = True
        return made

    return make


def whole(value: Any) -> int:
    """A whole number."""
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(value)
    return int(value)


def number(value: Any) -> float:
    """A number."""
    if isinstance(value, bool | str):
        raise ValueError(value)
    return float(value)


def flag(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise ValueError(value)
    return bool(value)


def text(value: Any) -> str:
    """A name."""
    if isinstance(value, type):  # of a configuration in pure Python
        return value.__name__
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A name, or a list of names."""
    return (text(value),) if isinstance(value, str) else tuple(text(item) for item in _items(value))


def wholes(value: Any) -> tuple[int, ...]:
    """A list of whole numbers."""
    return tuple(whole(item) for item in _items(value))


def numbers(value: Any) -> tuple[float, ...]:
    """A list of numbers."""
    return tuple(number(item) for item in _items(value))


def positives(value: Any) -> tuple[float, ...]:
    """A list of positive numbers."""
    found = numbers(value)
    if not found or min(found) <= 0:
        raise ValueError(value)
    return found


def pair(value: Any) -> tuple[float, float]:
    """A list of two numbers."""
    first, second = numbers(value)
    return first, second


def side(value: Any) -> int:
    """The side of a square."""
    sides = wholes(value) if isinstance(value, list | tuple) else (whole(value),) * 2
    if len(set(sides)) != 1:
        raise ValueError(value)
    return sides[0]


def _items(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(value)
    return value


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
