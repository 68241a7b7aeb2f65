"""A model watched at work: which layers are called, with which shapes, and where it fails.

Layers are watched in a copy of the model, so that nothing has to be put back, and the copy shares the model's arrays.
"""

import copy
import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from jaxft.errors import UserError
from jaxft.models.layers.rematerialization import rematerializing
from jaxft.surgery.places import Place, is_list, is_mapping, places

Shapes = Any
"""A tree of shapes, such as that of a tuple of feature maps."""
TAP = "surgery_tap"  # the attribute of a watched layer that holds its `Tap`


class Watch(Protocol):
    """What is told of the calls of the layers of a model."""

    def around(self, path: str, layer: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Calls a layer, `call(*arguments)`, and gives back what it puts out."""


class Tap:
    """What connects a layer with a watch."""

    def __init__(self, path: str, watch: Watch) -> None:
        self.path, self.watch = path, watch


class TappedFunction:
    """A function that is watched."""

    def __init__(self, function: Callable[..., Any], tap: Tap) -> None:
        self.function, self.tap = function, tap

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.tap.watch.around(self.tap.path, self.function, partial(self.function, **named), arguments)


@cache
def _tapped(kind: type) -> type:
    """The class of a watched layer: what `isinstance` says, and what it can do, stay."""

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        tap = getattr(self, TAP)
        return tap.watch.around(tap.path, self, lambda *given: kind.__call__(self, *given, **named), arguments)

    members = {"__call__": call, "__eq__": object.__eq__, "__hash__": object.__hash__, "__module__": kind.__module__}
    return type(kind)(kind.__name__, (kind,), members)


def watched(model: nnx.Module, watch: Watch) -> nnx.Module:
    """A copy of a model, with the same arrays, that tells a watch of each call of its layers."""
    copied = nnx.clone(model, variables=False)
    functions: list[tuple[Place, Any]] = []
    for place in list(places(copied)):
        layer, tap = place.layer, Tap(place.path, watch)
        if isinstance(layer, nnx.Module):
            if any("__call__" in vars(kind) for kind in type(layer).__mro__):
                setattr(layer, TAP, tap)
                layer.__class__ = _tapped(type(layer))
        elif callable(layer):
            functions.append((place, _tapped_value(layer, tap)))
    for holder in {id(place.holder): place.holder for place, _ in functions}.values():
        _put(holder, {place.key: function for place, function in functions if place.holder is holder})
    return copied


def _tapped_value(layer: Any, tap: Tap) -> Any:
    """A function that is watched, or a layer that is a value, such as a pooling, of the same kind."""
    if not dataclasses.is_dataclass(layer):
        return TappedFunction(layer, tap)
    copied = copy.copy(layer)
    object.__setattr__(copied, TAP, tap)
    kind: Any = type(layer)
    object.__setattr__(copied, "__class__", _tapped(kind))
    return copied


def _put(holder: Any, layers: dict[Any, Any]) -> None:
    if is_list(holder):
        items = [layers.get(index, item) for index, item in enumerate(holder)]
        holder.clear()
        holder.extend(items)
    elif is_mapping(holder):
        holder.update(layers)
    else:
        for name, layer in layers.items():
            setattr(holder, name, layer)


class Call(NamedTuple):
    """One call of a layer: when it began and ended, counted in calls, the shapes of its input and its output, and
    whether it is in a loop or a branch of JAX, out of which no array gets but what that gives back."""

    path: str
    begin: int
    end: int
    input: Shapes
    output: Shapes
    inner: bool


class Failed(Exception):
    """A model failed while it was watched.

    Attributes:
        path: the innermost layer that was at work; empty for the model itself.
        input: the shapes of what came in there.
        done: the calls that were done before.
    """

    def __init__(self, path: str, input: Shapes, done: list[Call]) -> None:
        super().__init__(path)
        self.path, self.input, self.done = path, input, done


class Shaped:
    """A watch that notes shapes, and where something fails."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.count = 0
        self.failed: tuple[str, Shapes] | None = None
        self.outer: Any = None  # the state of JAX's trace that the whole model is in

    def check(self, path: str, layer: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What is done with a call: a mere call, here."""
        return call(*arguments)

    def around(self, path: str, layer: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Calls a layer and notes its shapes."""
        begin, self.count = self.count, self.count + 1
        shapes = shapes_of(arguments[0] if arguments else ())
        try:
            output = self.check(path, layer, call, arguments)
        except Exception:
            self.failed = self.failed or (path, shapes)
            raise
        inner = get_opaque_trace_state() != self.outer
        self.calls.append(Call(path, begin, self.count, shapes, shapes_of(output), inner))
        self.count += 1
        return output


def shapes_of(tree: Any) -> Shapes:
    """The shapes of a tree of arrays."""
    return jax.tree.map(lambda leaf: tuple(jnp.shape(leaf)), tree)


def forward(model: Any, images: Any) -> Any:
    """What a network does with images `[N, H, W, 3]`: a detector finds its objects."""
    with rematerializing(False):
        if callable(model):
            return model(images)
        return model.predict(images, jnp.full((images.shape[0], 2), images.shape[1], jnp.int32))


def trace(model: nnx.Module, images: jax.ShapeDtypeStruct, watch: Shaped) -> Shapes:
    """The shapes of what a model puts out, found without computing anything.

    Raises:
        Failed: whatever the model raised, as its cause.
    """
    graph, state = nnx.split(watched(model, watch))

    def work(state: nnx.State, images: Any) -> Any:
        watch.outer = get_opaque_trace_state()
        return forward(nnx.merge(graph, state), images)

    try:
        found = jax.eval_shape(work, state, images)
    except Exception as error:
        raise Failed(*(watch.failed or ("", images.shape)), watch.calls) from error
    return jax.tree.map(lambda leaf: tuple(leaf.shape), found)


class Seen(NamedTuple):
    """A copy of a model that was watched, in training unless it takes such images in evaluation alone; its calls, and
    the shapes of what it puts out."""

    model: nnx.Module
    training: bool
    calls: list[Call]
    output: Shapes


def seen(model: nnx.Module, images: jax.ShapeDtypeStruct) -> Seen:
    """What a model does with images as it is.

    Raises:
        UserError: it does not take them.
    """
    copied = nnx.clone(model, variables=False)
    for training in (True, False):
        copied.train() if training else copied.eval()
        watch = Shaped()
        try:
            output = trace(copied, images, watch)
            return Seen(copied, training, watch.calls, output)
        except Failed as failed:
            cause = failed.__cause__
    if isinstance(cause, UserError):
        raise cause
    raise UserError(
        f"The {type(model).__name__} does not take images of the shape {images.shape} ({type(cause).__name__}: "
        f"{cause}), so that nothing in it can be edited; say which it takes with image_size."
    ) from cause
