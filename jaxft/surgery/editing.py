"""Editing a model in place, and keeping at it what was edited."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from converters.rules import Leaf, leaves
from jaxft import edits
from jaxft.errors import UserError
from jaxft.models import head_of
from jaxft.models.edited import EDITED, Edited, edited
from jaxft.models.paths import modules, walk
from jaxft.models.streams import initial_rngs
from jaxft.surgery.layers import LIGHT, layer_of
from jaxft.surgery.places import is_layer
from jaxft.surgery.resolving import FIELDS, resolve
from jaxft.surgery.steps import Moves, Own, Step, Wanted, perform, steps_of

NEW = 1  # what is folded into a key
SIZE = 224  # of the images that a model is tried with, unless it or the caller says another
Layers: TypeAlias = edits.AnyLayer | Sequence[edits.AnyLayer] | nnx.Module | Callable[..., Any]
"""What comes somewhere: a layer's fields, several in a Sequential, a module, or a function."""


def delete(model: nnx.Module, path: str, **options: Any) -> Edited:
    """`del model.features[5]`: takes out items of a list, whose later items move up, or sets a part to None.

    Args:
        path: see `jaxft.edits`: `features[5]`, `layer4[1:]`, `layer4.0.downsample`.
        options: as of `edit`.

    Raises:
        UserError: as of `edit`; what the network calls by name cannot be deleted.
    """
    return edit(model, [edits.Delete(path=path)], **options)


def replace(model: nnx.Module, path: str, layer: Layers, **options: Any) -> Edited:
    """`model.fc = layer`: puts something else in the place of a part, or of all of a range.

    Args:
        path: see `jaxft.edits`.
        layer: fields of `jaxft.edits`, whose sizes may be left out; several become a Sequential. A module of your own,
            or a function, comes as it is.
        options: as of `edit`.

    Raises:
        UserError: as of `edit`.
    """
    return edit(model, [_placed(layer, path=path)], **options)


def insert(
    model: nnx.Module, layer: Layers, *, before: str | None = None, after: str | None = None, **options: Any
) -> Edited:
    """Puts a layer before or after another: into its list, whose later items move down, or with it into a Sequential.

    Args:
        layer: as of `replace`.
        before, after: the path of the other; one of the two.
        options: as of `edit`.

    Raises:
        UserError: as of `edit`.
    """
    if (before is None) == (after is None):
        raise UserError("insert wants one of before and after, and not both.")
    return edit(model, [_placed(layer, before=before or "", after=after or "")], **options)


def cut(model: nnx.Module, after: str, **options: Any) -> Edited:
    """Ends a classifier after a stage or a block: what comes after it goes, up to the pooling. Layers of the head that
    do not fit any more are made anew for as many channels as there are now.

    Args:
        after: the path of the last part that stays: `layer3`, `features.4`, `encoder.layers.encoder_layer_5`.
        options: as of `edit`.

    Raises:
        UserError: as of `edit`.
    """
    return edit(model, [edits.Cut(after=after)], **options)


def edit(
    model: nnx.Module,
    wanted: Sequence[Wanted],
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    rngs: nnx.Rngs | None = None,
) -> Edited:
    """Edits a model in place, as `model.edits` of a configuration does.

    Args:
        model: with values or abstract.
        wanted: edits of `jaxft.edits`. All paths are those of the model as it is now.
        image_size: of the images that the network is tried with, in shapes; 224, or what the model says itself.
        num_classes: what a `Linear` without `out_features` puts out; as many as the network does.
        rngs: where the values of new layers are drawn from; by a seed of 0 where it is None, and how many calls have
            edited the model before.

    Returns:
        all that was edited in the model so far; its `lines` say it in words.

    Raises:
        UserError: a path names nothing (the nearest names are given), two edits contradict each other, or the network
            does not work any more; the shapes before and now are given. The model is as it was.
    """
    found = resolve(model, _read(wanted), images_for(model, image_size), num_classes, heads=partial(_heads, model))
    apply(nnx.clone(model, variables=False), found.steps, found.num_classes)  # whatever is wrong is known then
    return apply(model, found.steps, found.num_classes, rngs)


def _heads(model: nnx.Module) -> tuple[str, ...]:
    """The paths of the layers that put out the classes; none where they are not known, or no edit has left any."""
    try:
        return head_of(model)
    except UserError:
        return ()


def images_for(model: nnx.Module, size: int | None) -> jax.ShapeDtypeStruct:
    """The shape of an image that a network is tried with, of a side or else of the one that it is for, in the type of
    its parameters."""
    side = size or int(getattr(model, "image_size", SIZE))
    types = (place.variable.dtype for place in walk(model) if isinstance(place.variable, nnx.Param))
    return jax.ShapeDtypeStruct((1, side, side, 3), next(types, jnp.float32))


def _placed(layer: Layers, **where: str) -> Wanted:
    if isinstance(layer, list | tuple) and not all(isinstance(one, (*FIELDS, Mapping)) for one in layer):
        raise UserError("A list of layers holds fields of jaxft.edits; put modules of your own into a module first.")
    if isinstance(layer, (*FIELDS, Mapping, list, tuple)):
        kind = "Replace" if where.get("path") else "Insert"
        return _read([{"type": kind, "layer": layer, **{name: path for name, path in where.items() if path}}])[0]
    if not is_layer(layer):
        raise UserError(
            f"{layer!r} is no layer; give fields of jaxft.edits, several in a list, a module or a function."
        )
    return Own(layer, **where)


def _read(wanted: Sequence[Any]) -> tuple[Wanted, ...]:
    return tuple(edit if isinstance(edit, Own) else edits.edit_of(edit) for edit in wanted)


def apply(model: nnx.Module, steps: Sequence[Step], num_classes: int | None, rngs: nnx.Rngs | None = None) -> Edited:
    """Does what `resolve` has found, in place, and keeps at the model what was edited.

    Args:
        rngs: where new layers are drawn from; where it is None, or the model is abstract, they are so, too.
    """
    before, prior = list(leaves(model)), edited(model)
    abstract = any(isinstance(leaf.variable.get_value(), jax.ShapeDtypeStruct) for leaf in before)
    if abstract:
        streams = None
    else:  # not the numbers of the layers that earlier groups of edits brought
        number = 0 if prior is None else len(prior.groups)
        streams = rngs or rngs_of(jax.random.fold_in(jax.random.key(0), number))
    evaluating = _evaluates(model)
    moves = perform(model, steps, lambda layer: _made(layer, num_classes, streams, evaluating=evaluating))
    own = tuple(type(layer).__name__ for step in steps for layer in step.layers if not isinstance(layer, FIELDS))
    fields = tuple(step.fields for step in steps if all(isinstance(layer, FIELDS) for layer in step.layers))
    record = _recorded(before, list(leaves(model)), prior)
    record = dataclasses.replace(
        record,
        groups=(*record.groups, fields),
        own=(*record.own, *own),
        lines=(*record.lines, *told(steps, moves)),
        num_classes=num_classes,
    )
    setattr(model, EDITED, record)
    return record


def rngs_of(key: jax.Array) -> nnx.Rngs:
    """Where new layers are drawn from where the model is drawn from a key: not from the same numbers."""
    return initial_rngs(jax.random.fold_in(key, NEW))


def _evaluates(model: nnx.Module) -> bool:
    """Whether the layers of a model do what they do in evaluation, as `model.eval()` leaves them."""
    switches = ("deterministic", "use_running_average")
    modes = {vars(layer).get(name) for _, layer in modules(model) for name in switches}
    return modes - {None} == {True}


def _made(layer: Any, num_classes: int | None, rngs: nnx.Rngs | None, *, evaluating: bool) -> Any:
    """A layer of its fields, in evaluation where the model is; any other as it is."""
    if not isinstance(layer, FIELDS):
        return layer
    if rngs is not None:
        new = layer_of(layer, num_classes, rngs)
    elif isinstance(layer, LIGHT):
        new = layer_of(layer, num_classes, nnx.Rngs(0))
    else:
        new = nnx.eval_shape(lambda: layer_of(layer, num_classes, initial_rngs(0)))
    if evaluating and isinstance(new, nnx.Module):
        new.eval()
    return new


def _recorded(before: Sequence[Leaf], after: Sequence[Leaf], prior: Edited | None) -> Edited:
    """What became of the arrays of a model, from its leaves before and after, and from what was edited before that."""
    prior = prior or Edited((), (), (), (), (), None, (), replayed)
    names = dict(prior.moved)
    origins = {id(leaf.variable): names.get(leaf.key, leaf.key) for leaf in before if leaf.path not in prior.new}
    kept = {id(leaf.variable) for leaf in after}
    return Edited(
        groups=prior.groups,
        moved=tuple(
            (leaf.key, origins[id(leaf.variable)])
            for leaf in after
            if origins.get(id(leaf.variable), leaf.key) != leaf.key
        ),
        deleted=(*prior.deleted, *(key for variable, key in origins.items() if variable not in kept)),
        new=tuple(leaf.path for leaf in after if id(leaf.variable) not in origins),
        lines=prior.lines,
        num_classes=prior.num_classes,
        own=prior.own,
        replay=replayed,
    )


def replayed(record: Edited, model: nnx.Module, num_classes: int, rngs: nnx.Rngs | None = None) -> nnx.Module:
    """A model, fresh from its builder, edited in place as another one was.

    Raises:
        UserError: the other one got a layer that fields do not describe.
    """
    if record.own:
        raise UserError(
            f"A layer came into the {type(model).__name__} as it is ({', '.join(record.own)}), so that the same cannot "
            "be made for another number of classes; name the parts that are meant by their paths."
        )
    for group in record.groups:
        steps = [step for source, edit in enumerate(group) for step in steps_of(model, edit, source)]
        apply(model, steps, num_classes, rngs)
    return model


def told(steps: Sequence[Step], moves: Moves) -> list[str]:
    """What steps do, in words, a line each, and how items of lists are called then."""
    lines = []
    for (_, kind, _), row in groupby(steps, key=lambda step: (step.source, step.kind, step.place.owner)):
        first, *others = row
        what = ", ".join(_called(layer) for layer in first.layers)
        if kind == "insert":
            lines.append(f"{what} comes {'after' if first.after else 'before'} {first.path}")
        elif kind == "delete":
            lines.append(_deleted([step.path for step in (first, *others)]))
        else:
            lines += [f"{step.path} is {', '.join(map(_called, step.layers))} now" for step in (first, *others)]
    return lines + _renamed(moves.names)


def _deleted(paths: Sequence[str]) -> str:
    """`features.0 to features.4 are deleted` of paths that follow one another; others one by one."""
    first, *others = paths
    if not others:
        return f"{first} is deleted"
    if all(_next(one) == other for one, other in pairwise(paths)):
        return f"{first} to {others[-1]} are deleted"
    return f"{', '.join(paths[:-1])} and {paths[-1]} are deleted"


def _called(layer: Any) -> str:
    """`Linear(512, 10)`: the kind of a layer, with its numbers."""
    if not isinstance(layer, FIELDS):
        return type(layer).__name__
    values = (getattr(layer, field.name) for field in dataclasses.fields(layer))
    numbers = [str(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    outputs = layer.out_features if isinstance(layer, edits.Linear) else getattr(layer, "out_channels", 0)
    classes = ["classes"] if outputs is None else []
    return f"{layer.type}({', '.join(numbers + classes)})" if numbers else layer.type


def _renamed(names: Sequence[tuple[str, str]]) -> list[str]:
    """`features.6 to features.12 are features.5 to features.11 now`, a line for each row of such."""
    rows = list[list[tuple[str, str]]]()
    for before, now in names:
        if rows and _next(rows[-1][-1][0]) == before and _next(rows[-1][-1][1]) == now:
            rows[-1].append((before, now))
        else:
            rows.append([(before, now)])
    return [
        f"{row[0][0]} is {row[0][1]} now"
        if len(row) == 1
        else f"{row[0][0]} to {row[-1][0]} are {row[0][1]} to {row[-1][1]} now"
        for row in rows
    ]


def _next(path: str) -> str:
    """The name with the next number: `features.6` of `features.5`; empty where there is none."""
    name = path.rstrip("0123456789")
    return f"{name}{int(path.removeprefix(name)) + 1}" if name != path else ""
