"""What layers inside of a network put out, by name."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from flax import nnx
from jax import Array

from jaxft.errors import UserError
from jaxft.surgery.editing import images_for
from jaxft.surgery.places import Place, children, find_one, is_row
from jaxft.surgery.tracing import Call, Failed, Shaped, forward, trace, watched

Point = tuple[str, int]
"""The path of a layer, and which of its calls, from 0."""


class _Enough(Exception):
    """All that was wanted is there."""


class Collected:
    """A watch that keeps what layers put out, and, where it `ends` the work, does so when it has all."""

    def __init__(self, points: Sequence[Point], *, ends: bool = True) -> None:
        self.points, self.ends = frozenset(points), ends
        self.calls: Counter[str] = Counter()
        self.found: dict[Point, Any] = {}

    def around(self, path: str, layer: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Calls a layer."""
        output = call(*arguments)
        point = path, self.calls[path]
        self.calls[path] += 1
        if point in self.points:
            self.found[point] = output
            if self.ends and len(self.found) == len(self.points):
                raise _Enough
        return output


class FeatureExtractor(nnx.Module):
    """A model that puts out what some of its layers do; its arrays are those of the model it was made from.

    It takes images `[N, H, W, 3]` and gives a dictionary, of feature maps `[N, H, W, C]`, tokens `[N, T, C]`, vectors
    `[N, C]`. What comes after the last of these layers is not computed. `train()` and `eval()` are the model's.
    """

    def __init__(self, model: nnx.Module, points: tuple[tuple[str, Point], ...]) -> None:
        self.model, self.points = model, points

    def __call__(self, images: Array) -> dict[str, Any]:
        """The outputs by name, in the order in which they were asked for."""
        watch = Collected([point for _, point in self.points])
        try:
            forward(watched(self.model, watch), images)
        except _Enough:
            return {name: watch.found[point] for name, point in self.points}
        missing = ", ".join(point[0] for _, point in self.points if point not in watch.found)
        raise UserError(f"The {type(self.model).__name__} did not call {missing}.")


def create_feature_extractor(
    model: nnx.Module, return_nodes: Sequence[str] | Mapping[str, str], *, image_size: int | None = None
) -> FeatureExtractor:
    """What `torchvision.models.feature_extraction.create_feature_extractor` does, for the layers of a model.

    Args:
        model: with values or abstract, also in training; nothing in it is changed.
        return_nodes: paths of layers, such as `layer2.0.conv1`, `features.3`, `avgpool`; or such paths with the names
            under which their outputs come. A row of layers gives what its last one does. Of a layer that is called
            more than once, `layer1.0.relu_1` is the second call.
        image_size: of the images that the network is tried with, in shapes; 224, or what the model says itself.

    Raises:
        UserError: there is no such layer, or the network does not call it, or only in a loop or a branch of JAX.
    """
    names = return_nodes if isinstance(return_nodes, Mapping) else {path: path for path in return_nodes}
    if not names or len(set(names.values())) < len(names):
        raise UserError("return_nodes names one layer at least, each under a name of its own.")
    found = {path: _find(model, path) for path in names}
    watch = Shaped()
    try:
        trace(model, images_for(model, image_size), watch)
    except Failed as failed:
        raise UserError(f"The {type(model).__name__} cannot be looked into: {failed.__cause__}") from failed.__cause__
    counts = Counter(call.path for call in watch.calls)
    points = {path: (_called(place, counts), number) for path, (place, number) in found.items()}
    for path, (called, number) in points.items():
        if counts[called] <= number:
            times = f"only {counts[called]} times" if counts[called] else "nowhere"
            raise UserError(f"The {type(model).__name__} calls {called} {times}, so that there would be no {path}.")
    _check_outside(watch.calls, dict.fromkeys(points.values()))
    return FeatureExtractor(model, tuple((name, points[path]) for path, name in names.items()))


def _check_outside(calls: Sequence[Call], points: Iterable[Point]) -> None:
    """Looks whether what layers put out gets out of the network.

    Raises:
        UserError: a layer is called in a loop or a branch of JAX.
    """
    for path, number in points:
        if [call.inner for call in calls if call.path == path][number]:
            raise UserError(
                f"{path} is called inside of a loop or a branch (jax.lax.map, jax.lax.cond), out of which its output "
                "does not get; name a layer around that, or one before or after it."
            )


def _find(model: nnx.Module, path: str) -> tuple[Place, int]:
    """The layer at a path, and which of its calls: `relu_1` is the second of `relu`."""
    try:
        return find_one(model, path), 0
    except UserError:
        again = re.fullmatch(r"(.+)_(\d+)", path)
        if again is not None:
            with suppress(UserError):
                return find_one(model, again[1]), int(again[2])
        raise


def _called(place: Place, counts: Mapping[str, int]) -> str:
    """The path of a layer; of a row whose items are called one by one, that of the last."""
    while not counts[place.path] and is_row(place.layer) and children(place.layer):
        place = children(place.layer, place.path)[-1]
    return place.path
