"""Where layers are in a model: paths as people write them, and what holds the layer there."""

import difflib
import re
from collections.abc import Iterator, MutableMapping, MutableSequence, Sequence
from typing import Any, NamedTuple

from flax import nnx

from jaxft.errors import UserError
from jaxft.models.layers import Named
from jaxft.models.paths import path_name

NEAR = 3  # names in a message
INNER = ("_pytree__", "_object__")  # how the attributes of Flax's own begin


class Place(NamedTuple):
    """Where a layer is: at a key of what holds it, `layer1.0` at 0 of the list `layer1`."""

    path: str
    holder: Any
    key: str | int

    @property
    def layer(self) -> Any:
        """The layer."""
        return self.holder[self.key] if is_list(self.holder) or is_mapping(self.holder) else vars(self.holder)[self.key]

    @property
    def owner(self) -> str:
        """The path of the holder."""
        return self.path.rpartition(".")[0]


def is_list(holder: Any) -> bool:
    """Whether items have numbers for names, which change where one before them goes."""
    return isinstance(holder, MutableSequence)


def is_mapping(holder: Any) -> bool:
    """Whether it holds items by names that are no attributes."""
    return isinstance(holder, MutableMapping)


def is_row(holder: Any) -> bool:
    """Whether its items follow one another, as in a `torch.nn.Sequential`."""
    return is_list(holder) or isinstance(holder, Named)


def is_layer(value: Any) -> bool:
    """Whether it does something to what it is called with, with parameters or without."""
    if isinstance(value, nnx.Rngs | nnx.RngStream | nnx.Variable | type):
        return False
    return isinstance(value, nnx.Module) or callable(value)


def children(holder: Any, path: str = "") -> list[Place]:
    """The layers that one holds, in its order, and the lists and mappings of such."""
    found: list[tuple[Any, Any]]
    if is_list(holder):
        found = list(enumerate(holder))
    elif isinstance(holder, Named):
        found = [(name, vars(holder)[name]) for name in holder.order]
    elif is_mapping(holder):
        found = list(holder.items())
    else:
        found = [(name, value) for name, value in vars(holder).items() if not name.startswith(INNER)]
    if type(holder).__module__.startswith("flax.") and not (is_list(holder) or is_mapping(holder)):
        found = [(name, value) for name, value in found if isinstance(value, nnx.Module)]  # its functions are its own
    start = f"{path}." if path else ""
    inside = is_list(holder) or is_mapping(holder)
    return [
        Place(f"{start}{key if inside else path_name(key)}", holder, key)
        for key, value in found
        if is_layer(value) or is_list(value) or is_mapping(value)
    ]


def places(model: nnx.Module) -> Iterator[Place]:
    """Every layer below a model, each before those in it."""

    def below(holder: Any, path: str) -> Iterator[Place]:
        for place in children(holder, path):
            yield place
            if isinstance(place.layer, nnx.Module) or is_list(place.layer) or is_mapping(place.layer):
                yield from below(place.layer, place.path)

    return below(model, "")


def find(model: nnx.Module, path: str, order: Sequence[str] = ()) -> list[Place]:
    """The layer at a path, or those of a range, in their order.

    Args:
        path: see `jaxft.edits`.
        order: the paths of layers in the order in which they are called, for ranges of the parts of a module.

    Raises:
        UserError: there is none; the nearest names are given.
    """
    *outer, last = _parts(path)
    holder, where = model, ""
    for part in outer:
        place = _child(model, holder, where, part, path)
        holder, where = place.layer, place.path
    holder, where = _inside(holder, where, last)
    if ".." in last:
        ranks = {path: rank for rank, path in reversed([*enumerate(order)])}
        parts = children(holder, where)
        called = [place for place in parts if is_row(holder) or place.path in ranks]
        ordered = called if is_row(holder) else sorted(called, key=lambda place: ranks[place.path])
        found = _between(model, ordered, last, path)
    elif ":" in last:
        if not is_row(holder):
            raise UserError(f"{path} is a range, but {where or 'the model'} is no list; name its parts, FIRST..LAST.")
        found = children(holder, where)[_slice(last, path)]
    else:
        return [_child(model, holder, where, last, path)]
    if not found:
        names = ", ".join(place.path.rpartition(".")[2] for place in children(holder, where))
        raise UserError(f"{path} names nothing; {where or f'the {type(model).__name__}'} has {names or 'no layers'}.")
    return found


def find_one(model: nnx.Module, path: str) -> Place:
    """The layer at a path.

    Raises:
        UserError: there is none, or the path names several.
    """
    found = find(model, path)
    if len(found) > 1:
        raise UserError(f"{path} names {len(found)} layers, {found[0].path} to {found[-1].path}; name one of them.")
    return found[0]


def _parts(path: str) -> list[str]:
    """`layer4[0:1]` -> layer4, 0:1; `encoder.layers.a..b` -> encoder, layers, a..b."""
    dotted = re.sub(r"\[([^\[\].]*)\]", r".\1", path)
    first, mark, last = dotted.partition("..")
    *outer, name = first.split(".")
    parts = [*outer, f"{name}..{last}" if mark else name]
    if not all(outer) or parts[-1] in ("", "..") or "[" in dotted or "]" in dotted:
        raise UserError(f"{path!r} is no path; write layer4[1].conv2 or layer4.1.conv2, layer4[0:1], layer3..layer4.")
    return parts


def _slice(text: str, path: str) -> slice:
    try:
        return slice(*(int(number) if number else None for number in text.split(":")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is no range; write layer4[0:1], as in Python.") from error


def _inside(holder: Any, where: str, part: str) -> tuple[Any, str]:
    """The layers of Flax's own Sequential lie in its `layers`; those of PyTorch's in itself."""
    if isinstance(holder, nnx.Sequential) and part != "layers":
        return holder.layers, f"{where}.layers".removeprefix(".")
    return holder, where


def _child(model: nnx.Module, holder: Any, where: str, part: str, path: str) -> Place:
    holder, where = _inside(holder, where, part)
    found = children(holder, where) if isinstance(holder, nnx.Module) or is_list(holder) or is_mapping(holder) else []
    named = {one.path.rpartition(".")[2]: one for one in found}
    if part in named:
        return named[part]
    if is_row(holder) and re.fullmatch(r"-?\d+", part) and -len(found) <= int(part) < len(found):
        return found[int(part)]
    raise UserError(
        f"There is no layer {path} in the {type(model).__name__}; {_hint(model, path, where, list(named))}."
    )


def _hint(model: nnx.Module, path: str, where: str, names: list[str]) -> str:
    every = [place.path for place in places(model)]
    wanted = ".".join(_parts(path))
    near = difflib.get_close_matches(wanted, every, n=NEAR, cutoff=0.75)
    parts = f"{where or 'its parts'} {'has' if where else 'are'} {', '.join(names) or 'no layers'}"
    return f"the nearest are {', '.join(near)}; {parts}" if near else parts


def _between(model: nnx.Module, found: list[Place], last: str, path: str) -> list[Place]:
    first, _, end = last.partition("..")
    names = [place.path.rpartition(".")[2] for place in found]
    for name in filter(None, (first, end)):
        if name not in names:
            raise UserError(
                f"There is no layer {name} for the range {path} in the {type(model).__name__}; there are "
                f"{', '.join(names)}."
            )
    return found[names.index(first) if first else 0 : names.index(end) + 1 if end else len(names)]
