"""Layers of a model that trains beside those of its teacher: what they put out, and how far that is apart."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import get_opaque_trace_state

from jaxft.errors import UserError
from jaxft.surgery.features import Collected, Point


class Outputs:
    """What layers put out at some points, from the trace in which it was made."""

    def __init__(self, points: list[Point], whose: str) -> None:
        self._whose, self._watch, self._trace = whose, Collected(points, ends=False), get_opaque_trace_state()

    def around(self, path: str, layer: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Calls a layer."""
        number = self._watch.calls[path]
        output = self._watch.around(path, layer, call, arguments)
        if (path, number) in self._watch.points and get_opaque_trace_state() != self._trace:
            raise UserError(
                f"{path} is called inside of a loop, a rematerialized block or a part of each device, out of which its "
                "output does not get; let distillation.features name a layer around it, or leave "
                "hardware.rematerialize out."
            )
        return output

    def of(self, point: Point) -> Any:
        """The output at a point."""
        if point not in self._watch.found:
            raise UserError(
                f"distillation.features names {point[0]} of {self._whose}, which training does not call; name another."
            )
        return self._watch.found[point]

    def calls(self, point: Point) -> int:
        """How often the layer of a point was called."""
        return self._watch.calls[point[0]]


def feature_error(own: Outputs, one: Point, other: Outputs, two: Point) -> Array:
    """The mean squared error of what a layer of the student and one of the teacher put out, in float32 or wider.

    Raises:
        UserError: they put out different shapes, or one of them looks at more than the other, as the second stage of a
            detector does, whose own loss has boxes of its own.
    """
    ours, theirs = own.of(one), jax.lax.stop_gradient(other.of(two))
    if own.calls(one) != other.calls(two):
        raise UserError(
            f"distillation.features compares {one[0]}, called {own.calls(one)} x in training, with the teacher's "
            f"{two[0]}, called {other.calls(two)} x, so that they may have looked at different things; "
            "name a layer in front of it, such as one of the backbone."
        )
    shapes = [jax.tree.map(jnp.shape, output) for output in (ours, theirs)]
    if shapes[0] != shapes[1] or not isinstance(ours, Array):
        raise UserError(
            f"distillation.features compares {one[0]}, which puts out {shapes[0]}, with the teacher's {two[0]}, which "
            f"puts out {shapes[1]}; name layers that put out one array of the same shape."
        )
    wide = jnp.promote_types(ours.dtype, jnp.float32)
    return jnp.square(ours.astype(wide) - theirs.astype(wide)).mean()
