"""Where a network ends early: what goes, and what of its head stays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxft.errors import UserError
from jaxft.models.layers import LayerNorm
from jaxft.surgery.places import Place, children, find_one, is_mapping, is_row
from jaxft.surgery.steps import Step, removed
from jaxft.surgery.tracing import Call, Seen


class CutOff(NamedTuple):
    """What a cut does.

    Attributes:
        steps: they let go what comes after it, up to the end of the trunk.
        head: paths of the layers that come after the trunk; what does not fit there may be made anew.
    """

    steps: list[Step]
    head: frozenset[str]


def cut_off(seen: Seen, images: jax.ShapeDtypeStruct, path: str, source: int) -> CutOff:
    """What it takes to end a network after a part of its trunk.

    The trunk ends with the last of the model's `stages` that is no LayerNorm; what comes after it is the head.

    Raises:
        UserError: the model has no stages, or the path names no part of them that something comes after.
    """
    model, last = seen.model, find_one(seen.model, path)
    begins, ends = _first_and_last(seen.calls)
    end = ends[_trunk_end(model, images)]
    if last.path not in ends or ends[last.path] >= end:
        raise UserError(f"nothing of the trunk comes after {last.path}; name an earlier stage or block.")
    steps, place = list[Step](), last
    while True:
        _check_row(model, place, last.path)
        siblings = children(place.holder, place.owner)
        names = [sibling.path for sibling in siblings]
        for sibling in siblings[names.index(place.path) + 1 :] if is_row(place.holder) else siblings:
            begin = begins.get(sibling.path, -1)
            if is_row(place.holder) or (ends[place.path] < begin < end):
                steps.append(removed(source, sibling))
        if not place.owner:
            break
        place = find_one(model, place.owner)
    return CutOff(steps, frozenset(path for path, begin in begins.items() if begin > end))


def _first_and_last(calls: Sequence[Call]) -> tuple[dict[str, int], dict[str, int]]:
    """When each layer begins for the first time and ends for the last; a row that is not called itself begins and ends
    with its items."""
    begins, ends = dict[str, int](), dict[str, int]()
    for call in calls:
        parts = call.path.split(".")
        for path in (".".join(parts[:length]) for length in range(1, len(parts) + 1)):
            begins[path] = min(call.begin, begins.get(path, call.begin))
            ends[path] = max(call.end, ends.get(path, call.end))
    return begins, ends


def _trunk_end(model: Any, images: jax.ShapeDtypeStruct) -> str:
    if not hasattr(model, "stages"):
        raise UserError(
            f"the {type(model).__name__} is no classifier with stages, so that it is not known where its trunk ends; "
            "replace what is to go by Identity()."
        )
    graph, state = nnx.split(model)
    names = list[str]()  # in order, which a tree does not keep
    jax.eval_shape(lambda state, images: names.extend(nnx.merge(graph, state).stages(images)), state, images)
    return [path for path in names if not isinstance(find_one(model, path).layer, LayerNorm)][-1]


def _check_row(model: nnx.Module, place: Place, path: str) -> None:
    """Looks whether what holds a part lets its parts follow one another."""
    holder: Any = place.holder
    if holder is model or is_row(holder) or is_mapping(holder) or is_row(place.layer):
        return
    raise UserError(f"{path} lies inside of {place.owner}, whose parts do not follow one another; cut after a block.")
