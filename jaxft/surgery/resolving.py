"""Edits with every size: tried out on the shapes of a model, before anything is changed."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxft import edits
from jaxft.errors import UserError
from jaxft.models.layers import FlatLinear, LinearOverMap, Outputs
from jaxft.models.streams import initial_rngs
from jaxft.surgery.cutting import cut_off
from jaxft.surgery.layers import Misfit, check_fits, layer_of, refitted, sized
from jaxft.surgery.places import find_one
from jaxft.surgery.steps import Moves, Step, Wanted, check_together, described, perform, steps_of
from jaxft.surgery.tracing import Call, Failed, Seen, Shaped, Shapes, seen, trace

FIELDS = edits.KINDS


class Resolved(NamedTuple):
    """Edits with every size.

    Attributes:
        steps: what is to be done.
        before, after: the shapes that the network puts out for the images that it was tried with, without those of
            auxiliary heads.
        num_classes: how many classes there are; None where it is not known.
    """

    steps: tuple[Step, ...]
    before: Shapes
    after: Shapes
    num_classes: int | None


class Pending:
    """A layer that gets its size from what comes in, in a model that is tried out."""

    def __init__(self, fields: Any, num_classes: int | None, *, flat: bool, training: bool) -> None:
        self.fields, self.num_classes, self.flat, self.training = fields, num_classes, flat, training
        self.sized: Any = None

    def __call__(self, x: jax.Array, *rest: Any) -> Any:
        self.sized = sized(self.sized or self.fields, x.shape, self.num_classes, flat=self.flat)
        layer: Any = layer_of(self.sized, self.num_classes, initial_rngs(0))
        if isinstance(layer, nnx.Module) and not self.training:
            layer.eval()
        return layer(x, *rest) if isinstance(self.sized, edits.BatchNorm) else layer(x)


class Tried(Shaped):
    """A watch that looks whether layers fit, and takes others for those that do not, where there are any.

    Args:
        anew: gives the layer to take for one at a path, or None.
    """

    def __init__(self, anew: Callable[[str, Any], Pending | None]) -> None:
        super().__init__()
        self.anew = anew
        self.taken: dict[str, Pending] = {}

    def check(self, path: str, layer: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Calls a layer that takes what comes in."""
        shape = getattr(arguments[0], "shape", None) if arguments else None
        if shape is not None and not isinstance(layer, Pending):
            try:
                check_fits(layer, shape)
            except Misfit:
                other = self.taken.get(path) or self.anew(path, layer)
                if other is None:
                    raise
                self.taken[path] = other
                return other(*arguments)
        return call(*arguments)


def resolve(
    model: nnx.Module,
    wanted: Sequence[Wanted],
    images: jax.ShapeDtypeStruct,
    num_classes: int | None,
    *,
    name: str = "edits",
    heads: Callable[[], Sequence[str]] = tuple,
) -> Resolved:
    """Tries edits out on the shapes of a model, which stays as it is.

    Args:
        wanted: the edits; all paths are those of `model`.
        images: what the network is tried with, `[N, H, W, 3]`.
        num_classes: what a layer puts out that is to put out the classes; None for as many numbers an image as the
            network puts out.
        name: what a person calls the list of edits.
        heads: gives the paths of the layers that put out the classes, to be asked where one is made anew.

    Raises:
        UserError: an edit names no layer, two contradict each other, or what comes of them does not work.
    """

    def called(source: int) -> str:
        return f"{name}.{source} ({described(wanted[source])})"

    before = seen(model, images)
    if num_classes is None and is_vector(main(before.output)):
        num_classes = main(before.output)[1]
    steps, head = _steps(before, wanted, images, called)
    check_together(steps, called)
    pending = [_pending(before, step, num_classes) for step in steps]
    trial = nnx.clone(before.model, variables=False)
    trying = [step._replace(layers=layers) for step, layers in zip(steps, pending, strict=True)]
    moves = perform(trial, trying, lambda layer: layer)

    def anew(path: str, layer: Any) -> Pending | None:
        was = moves.before(path)
        if was not in head:
            return None
        fields = refitted(layer, num_classes if was in heads() else None)
        return None if fields is None else Pending(fields, num_classes, flat=True, training=before.training)

    watch = Tried(anew)
    try:
        after = trace(trial, images, watch)
    except Failed as failed:
        told = "; ".join(called(source) for source in range(len(wanted)))
        raise UserError(f"{told}: {_why(failed, before, moves, steps)}") from failed.__cause__
    done = [step._replace(layers=_sizes(step, layers, called)) for step, layers in zip(steps, pending, strict=True)]
    cut = next((source for source, edit in enumerate(wanted) if isinstance(edit, edits.Cut)), 0)
    for path, taken in watch.taken.items():
        place = find_one(before.model, moves.before(path) or path)
        done.append(Step(cut, "replace", place, (taken.sized,)))
    return Resolved(tuple(done), main(before.output), main(after), num_classes)


def _steps(
    before: Seen, wanted: Sequence[Wanted], images: jax.ShapeDtypeStruct, called: Callable[[int], str]
) -> tuple[list[Step], frozenset[str]]:
    """The steps of all edits, and the paths of the layers that may be made anew."""
    steps, head = list[Step](), frozenset[str]()
    order = [call.path for call in sorted(before.calls, key=lambda call: call.begin)]
    for source, edit in enumerate(wanted):
        try:
            if isinstance(edit, edits.Cut):
                cut = cut_off(before, images, edit.after, source)
                steps, head = steps + cut.steps, head | cut.head
            else:
                steps += steps_of(before.model, edit, source, order)
        except UserError as error:
            raise UserError(f"{called(source)}: {error}") from error
    return steps, head


def _pending(before: Seen, step: Step, num_classes: int | None) -> tuple[Any, ...]:
    """The layers of a step, to be tried out."""
    put_out = next((call.output for call in before.calls if call.path == step.path), None)
    flat = is_vector(put_out) or isinstance(step.place.layer, LinearOverMap | FlatLinear)
    pending = partial(Pending, num_classes=num_classes, flat=flat, training=before.training)
    return tuple(pending(layer) if isinstance(layer, FIELDS) else layer for layer in step.layers)


def main(output: Shapes) -> Shapes:
    """The shapes of an output without those of auxiliary heads."""
    return output.logits if isinstance(output, Outputs) else output


def is_vector(shape: Shapes) -> bool:
    """Whether it is the shape of a row of numbers an image."""
    return isinstance(shape, tuple) and len(shape) == 2 and isinstance(shape[0], int)


def _sizes(step: Step, layers: Sequence[Any], called: Callable[[int], str]) -> tuple[Any, ...]:
    if any(isinstance(layer, Pending) and layer.sized is None for layer in layers):
        raise UserError(
            f"{called(step.source)}: the network calls no layer at {step.path}, so that the edit would have no effect; "
            "name one that it calls."
        )
    return tuple(layer.sized if isinstance(layer, Pending) else layer for layer in layers)


def _why(failed: Failed, before: Seen, moves: Moves, steps: Sequence[Step]) -> str:
    """Why a network does not work any more, with the shapes before and now."""
    cause = failed.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    first = (str(cause).splitlines() or [""])[0].rstrip(".")
    reason = first if isinstance(cause, Misfit) else f"{type(cause).__name__}: {first}"
    was = {(call.path, number): call for call, number in _numbered(before.calls)}
    where = failed.path or f"the {type(before.model).__name__}"
    number = sum(call.path == failed.path for call in failed.done)
    old = was.get((moves.before(failed.path) or "", number))
    came = "" if old is None or old.input == failed.input else f", and got {old.input} before"
    gone = [step.path for step in steps if step.kind == "delete"]
    missing = gone and isinstance(cause, TypeError | AttributeError | LookupError)
    hint = f"; what it calls cannot be deleted, replace {', '.join(gone)} by Identity()" if missing else ""
    changed = _first_changed(failed.done, was, moves, [step.path for step in steps if step.kind == "replace"])
    return f"{where} gets {failed.input}{came}: {reason}{changed}{hint}."


def _numbered(calls: Sequence[Call]) -> Iterator[tuple[Call, int]]:
    """Calls, with how many of the same layer come before each."""
    counts = Counter[str]()
    for call in calls:
        yield call, counts[call.path]
        counts[call.path] += 1


def _first_changed(
    done: Sequence[Call], was: Mapping[tuple[str, int], Call], moves: Moves, replaced: Sequence[str]
) -> str:
    """The first layer that puts out another shape than what was there before, in words."""
    for call, number in _numbered(done):
        path = moves.before(call.path)
        old = was.get((path or (call.path if call.path in replaced else ""), number))
        if old is not None and old.output != call.output:
            return f"; {call.path} puts out {call.output}, and put out {old.output} before"
    return ""
