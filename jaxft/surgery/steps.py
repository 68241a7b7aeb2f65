"""Edits as steps on a model: which layers they mean, whether they go together, and how they are done."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from flax import nnx

from jaxft import edits
from jaxft.errors import UserError
from jaxft.models.layers import Named, Sequential
from jaxft.surgery.places import Place, find, find_one, is_list, is_mapping

Kind = Literal["delete", "replace", "insert"]
DONE = {"delete": "deletes", "replace": "replaces", "insert": "puts something beside"}


class Step(NamedTuple):
    """One change of one layer.

    Attributes:
        source: the position of the edit that wants it.
        place: the layer, in the model as it was.
        layers: what comes, as fields, or as it is.
        several: whether a single layer comes in a Sequential, too.
        after: whether what is inserted comes after the layer.
    """

    source: int
    kind: Kind
    place: Place
    layers: tuple[Any, ...] = ()
    several: bool = False
    after: bool = False

    @property
    def path(self) -> str:
        """Of the layer, in the model as it was."""
        return self.place.path

    @property
    def fields(self) -> edits.Edit:
        """The step as an edit."""
        if self.kind == "delete":
            return edits.Delete(path=self.path)
        layer = self.layers if self.several else self.layers[0]
        if self.kind == "replace":
            return edits.Replace(path=self.path, layer=layer)
        return edits.Insert(layer=layer, after=self.path) if self.after else edits.Insert(layer=layer, before=self.path)


class Own(NamedTuple):
    """A layer that comes as it is, `Replace` or `Insert` without fields for it."""

    layer: Any
    path: str = ""
    before: str = ""
    after: str = ""


Wanted = edits.Edit | Own


def described(edit: Wanted) -> str:
    """An edit in two or three words."""
    if not isinstance(edit, Own):
        return edits.described(edit)
    if edit.path:
        return f"Replace {edit.path}"
    return f"Insert after {edit.after}" if edit.after else f"Insert before {edit.before}"


def steps_of(model: nnx.Module, edit: Wanted, source: int, order: Sequence[str] = ()) -> list[Step]:
    """The steps of an edit that is no `Cut`.

    Args:
        source: its position.
        order: as of `jaxft.surgery.places.find`.

    Raises:
        UserError: it names no layer of the model.
    """
    match edit:
        case edits.Delete():
            return [Step(source, "delete", place) for place in find(model, edit.path, order)]
        case Own():
            several = False
        case edits.Replace() | edits.Insert():
            several = isinstance(edit.layer, tuple)
        case edits.Cut():
            raise AssertionError("a cut has no steps of its own")
    layers: tuple[Any, ...] = edit.layer if isinstance(edit.layer, tuple) else (edit.layer,)
    if isinstance(edit, edits.Replace) or (isinstance(edit, Own) and edit.path):
        first, *rest = find(model, edit.path, order)
        return [Step(source, "replace", first, layers, several), *(removed(source, place) for place in rest)]
    if edit.after:
        return [Step(source, "insert", find(model, edit.after, order)[-1], layers, several, after=True)]
    return [Step(source, "insert", find(model, edit.before or "", order)[0], layers, several)]


def removed(source: int, place: Place) -> Step:
    """The step that lets what comes before a layer go to what comes after it."""
    if is_list(place.holder) or isinstance(place.holder, Named):
        return Step(source, "delete", place)
    return Step(source, "replace", place, (edits.Identity(),))


def check_together(steps: Sequence[Step], name: Callable[[int], str]) -> None:
    """Looks whether steps of several edits go together.

    Args:
        name: what a person calls the edit at a position.

    Raises:
        UserError: two of them contradict each other.
    """
    for index, one in enumerate(steps):
        for other in steps[index + 1 :]:
            if one.source != other.source and _contradict(one, other):
                raise UserError(
                    f"{name(one.source)} and {name(other.source)} contradict each other: the first {DONE[one.kind]} "
                    f"{one.path}, the second {DONE[other.kind]} {other.path}, by the names before both; leave one out."
                )


def _contradict(one: Step, other: Step) -> bool:
    gone = {"delete", "replace"}
    if one.path == other.path:
        if {one.kind, other.kind} <= gone:
            return True
        return "delete" in (one.kind, other.kind) and not is_list(one.place.holder) and one.kind != other.kind
    return any(
        outer.kind in gone and inner.path.startswith(f"{outer.path}.") for outer, inner in ((one, other), (other, one))
    )


class Moves(NamedTuple):
    """What steps did to the names of layers: (before, now) of what has another one, and the paths of what is new."""

    names: tuple[tuple[str, str], ...]
    new: tuple[str, ...]

    def before(self, path: str) -> str | None:
        """What a layer was called before; None of a new one, and of what lies in one."""
        renamed = [(now, was) for was, now in self.names if f"{path}.".startswith(f"{now}.")]
        fresh = [now for now in self.new if f"{path}.".startswith(f"{now}.")]
        now, was = max(renamed, default=("", ""), key=lambda pair: len(pair[0]))
        if fresh and len(max(fresh, key=len)) >= len(now):
            return None
        return (was + path.removeprefix(now)).removeprefix(".") if now else path


class Came(NamedTuple):
    """What is by a name in what lies at `owner` in the model as it was; `was` is its path there, None if it is new."""

    owner: str
    name: str
    was: str | None


class Wish(NamedTuple):
    """All that is wanted of one layer."""

    place: Place
    steps: list[Step]

    def becomes(self, make: Callable[[Any], Any]) -> list[tuple[str, Any]]:
        """What comes there, in order: the layer itself as `kept`, and what is `new`."""
        before, own, after = list[tuple[str, Any]](), [("kept", self.place.layer)], list[tuple[str, Any]]()
        for step in self.steps:
            made = [("new", make(layer)) for layer in step.layers]
            if step.kind == "insert":
                (after if step.after else before).extend(made)
            elif step.kind == "delete":
                own = []
            else:
                own = [("new", Sequential([layer for _, layer in made]))] if step.several else made
        return [*before, *own, *after]


def perform(model: nnx.Module, steps: Sequence[Step], make: Callable[[Any], Any]) -> Moves:
    """Does steps to a model, in place, all of them by the names that layers have before.

    Args:
        make: makes a layer of its fields.
    """
    wishes: dict[tuple[int, Any], Wish] = {}
    for step in steps:
        place = find_one(model, step.path)
        wishes.setdefault((id(place.holder), place.key), Wish(place, [])).steps.append(step)
    came = list[Came]()
    lists = {id(wish.place.holder): wish.place for wish in wishes.values() if is_list(wish.place.holder)}
    for wish in wishes.values():
        if id(wish.place.holder) not in lists:
            came += _put(wish.place, wish.becomes(make))
    for number, place in lists.items():
        items = [
            wishes[number, index].becomes(make) if (number, index) in wishes else [("kept", item)]
            for index, item in enumerate(place.holder)
        ]
        came += _fill(place.holder, place.owner, items)
    return _moves(came)


def _moves(came: list[Came]) -> Moves:
    """The names of all that came somewhere; what lies in something that moves has moved with it."""
    names, new = list[tuple[str, str]](), list[str]()
    for owner, name, was in sorted(came, key=lambda one: one.owner.count(".") + bool(one.owner)):
        outer = [(before, now) for before, now in names if f"{owner}.".startswith(f"{before}.")]
        before, start = max(outer, key=lambda pair: len(pair[0]), default=("", ""))
        path = f"{start}{owner.removeprefix(before)}.{name}".removeprefix(".")
        if was is None:
            new.append(path)
        else:
            names.append((was, path))
    return Moves(tuple(names), tuple(new))


def _put(place: Place, comes: list[tuple[str, Any]]) -> Iterator[Came]:
    """Fills the place of a part with a name: with a Sequential where there are several."""
    holder, key, name = place.holder, place.key, place.path.rpartition(".")[2]
    several = len(comes) > 1
    for index, (status, _) in enumerate(comes):
        if status == "new" or several:
            was = None if status == "new" else place.path
            yield Came(place.owner, f"{name}.{index}" if several else name, was)
    layer = Sequential([layer for _, layer in comes]) if several else comes[0][1] if comes else None
    if is_mapping(holder):
        del holder[key]
        if comes:
            holder[key] = layer
        return
    delattr(holder, str(key))  # so that Flax asks anew whether it holds arrays
    if comes or not isinstance(holder, Named):
        setattr(holder, str(key), layer)
    else:
        holder.order = tuple(name for name in holder.order if name != key)


def _fill(holder: Any, path: str, items: list[list[tuple[str, Any]]]) -> Iterator[Came]:
    """Fills a list anew."""
    layers = list[Any]()
    for index, comes in enumerate(items):
        for status, layer in comes:
            if status == "new" or index != len(layers):
                yield Came(path, str(len(layers)), None if status == "new" else f"{path}.{index}".removeprefix("."))
            layers.append(layer)
    holder.clear()
    holder.extend(layers)
