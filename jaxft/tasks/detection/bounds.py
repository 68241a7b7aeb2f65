"""How large photos can become: the pad shapes that steps need, known before any photo is opened."""

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import reduce, singledispatch
from typing import NamedTuple

from jaxft.errors import UserError
from jaxft.fields import HeightWidth
from jaxft.tasks.detection.mixtures import CopyPaste, MixUp, Mosaic, TrainTransform
from jaxft.tasks.detection.steps import (
    AnyResize,
    Steps,
    TrainSteps,
    affine_size,
    ends_of,
    padded_size,
    scale_of,
    size_at,
)
from jaxft.tasks.detection.transforms import (
    Expand,
    FilterAnnotations,
    MinIoURandomCrop,
    Pad,
    PhotoMetricDistortion,
    RandomAffine,
    RandomChoice,
    RandomChoiceResize,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
    WidthHeight,
    YOLOXHSVRandomAug,
)

Range = tuple[float, float]


class Sizes(NamedTuple):
    """The sizes that a photo may have: the least and the greatest height, width, and height / width."""

    height: Range
    width: Range
    ratio: Range

    def largest(self) -> tuple[float, float]:
        """Height and width that no photo exceeds."""
        return self.height[1], self.width[1]


_ANY = (1.0, math.inf)
LANDSCAPE, PORTRAIT = Sizes(_ANY, _ANY, (0.0, 1.0)), Sizes(_ANY, _ANY, (1.0, math.inf))


def exactly(height: int, width: int) -> Sizes:
    """The one size."""
    return Sizes((height, height), (width, width), (height / width, height / width))


def after(steps: TrainSteps, sizes: Sizes) -> Sizes:
    """The sizes that photos may have after steps; no photo is larger, but not each of these sizes need occur."""
    return reduce(lambda before, step: _after(step, before), steps, sizes)


def largest_after(steps: TrainSteps, height: int, width: int) -> HeightWidth:
    """Height and width that a photo of a size does not exceed after steps."""
    most = after(steps, exactly(height, width)).largest()
    return int(most[0]), int(most[1])


def needed_pad_shapes(steps: TrainSteps, divisor: int, photos: Iterable[HeightWidth] = ()) -> tuple[HeightWidth, ...]:
    """A landscape and a portrait pad shape for whatever comes out of steps, or one where it has room for both.

    Args:
        divisor: of the sides.
        photos: height and width of all photos, where steps do not say how large they become: without a `Resize` to a
            size, a crop or the like.

    Raises:
        UserError: the size of what comes out depends on the photos, and there are none.
    """
    rooms = [after(steps, sizes).largest() for sizes in (LANDSCAPE, PORTRAIT)]
    if math.isinf(max(map(max, rooms))):
        kinds = set(photos)
        if not kinds:
            raise UserError(
                "The transforms do not say how large a photo can become; give --task.pad-shapes, or add a Resize."
            )
        found = [(height > width, largest_after(steps, height, width)) for height, width in kinds]
        sides = [[most for is_portrait, most in found if is_portrait is portrait] for portrait in (False, True)]
        rooms = [tuple(map(max, zip(*most, strict=True))) for most in sides if most]
    shapes = dict.fromkeys(tuple(-(-int(side) // divisor) * divisor for side in room) for room in rooms)
    return tuple(
        (height, width)
        for height, width in shapes
        if not any((height, width) != other and height <= other[0] and width <= other[1] for other in shapes)
    )


def refuse_unfit(where: str, first: Steps, steps: TrainSteps, photos: Iterable[HeightWidth]) -> None:
    """Refuses steps that cannot take each of the photos that may come to them.

    Args:
        where: whose photos, for messages.
        first: `photo_transforms`.
        steps: those that follow.
        photos: height and width of all photos.

    Raises:
        UserError: a `CopyPaste` may get two photos that are not of one size, or a `RandomAffine` may take all of one.
    """
    if kinds := set(photos):
        stored = _union([exactly(*size) for size in kinds])
        alone = after(first, stored)
        _refuse_unfit(where, first, stored, alone)
        _refuse_unfit(where, steps, alone, alone)


def _refuse_unfit(where: str, steps: TrainSteps, sizes: Sizes, alone: Sizes) -> None:
    for step in steps:
        if isinstance(step, CopyPaste):
            kinds = {(height, width) for one in (sizes, alone) for height, width in itertools.product(*one[:2])}
            if len(kinds) > 1:
                listed = " to ".join(f"{height:g} x {width:g}" for height, width in (min(kinds), max(kinds)))
                raise UserError(
                    f"{where}: CopyPaste needs two photos of one size, but they may have {listed} (height x width); "
                    "let photo_transforms end with a Pad to the largest size, and no step change it before CopyPaste."
                )
        elif isinstance(step, RandomAffine):
            for name, (low, _), more in zip(("high", "wide"), sizes[:2], affine_size(step, 0, 0), strict=True):
                if low + more < 1:
                    raise UserError(
                        f"{where}: the border of RandomAffine is {step.border}, which takes {-more} pixels from photos "
                        f"that may be {low:g} pixels {name} there; let a step before it make them large enough."
                    )
        elif isinstance(step, RandomChoice):
            for inner in step.transforms:
                _refuse_unfit(where, inner, sizes, alone)
        sizes = _after(step, sizes)


@singledispatch
def _after(step: TrainTransform, sizes: Sizes) -> Sizes:
    raise NotImplementedError(type(step))


@_after.register(RandomFlip)
@_after.register(PhotoMetricDistortion)
@_after.register(YOLOXHSVRandomAug)
@_after.register(FilterAnnotations)
@_after.register(MixUp)
@_after.register(CopyPaste)
def _(step: TrainTransform, sizes: Sizes) -> Sizes:
    return sizes


@_after.register
def _(step: Mosaic, sizes: Sizes) -> Sizes:
    made = exactly(2 * step.img_scale[1], 2 * step.img_scale[0])
    return made if step.prob == 1 else _union([sizes, made])


@_after.register
def _(step: RandomAffine, sizes: Sizes) -> Sizes:
    added = affine_size(step, 0, 0)
    sides = zip(sizes[:2], added, strict=True)
    height, width = ((max(low + more, 1), max(high + more, 1)) for (low, high), more in sides)
    return _cut(height, width) if any(added) else sizes


@_after.register
def _(step: Resize, sizes: Sizes) -> Sizes:
    if step.scale is not None:
        scale = scale_of(step, 1, 1)
        return _resized(step, sizes, scale, scale)
    if sizes.height[0] == sizes.height[1] and sizes.width[0] == sizes.width[1]:
        size = int(sizes.height[0]), int(sizes.width[0])
        return exactly(*size_at(step, *size, scale_of(step, *size)))
    assert step.scale_factor is not None
    across, down = step.scale_factor
    if step.keep_ratio:  # by one factor; rounding of the scale takes some from it, and adds a pixel at most
        most = max(across, down)
        height, width = (_whole((1.0, high * most + 1)) for _, high in sizes[:2])
        return _scaled(sizes, height, width)
    height, width = _times(sizes.height, (down, down)), _times(sizes.width, (across, across))
    return _cut(height, width)


@_after.register
def _(step: RandomResize, sizes: Sizes) -> Sizes:
    return _resized(step, sizes, *ends_of(step))


@_after.register
def _(step: RandomChoiceResize, sizes: Sizes) -> Sizes:
    return _union([_resized(step, sizes, scale, scale) for scale in step.scales])


@_after.register
def _(step: RandomCrop, sizes: Sizes) -> Sizes:
    first, second = step.crop_size
    if step.crop_type == "absolute":
        if sizes.height[1] <= second and sizes.width[1] <= first:
            return sizes
        return _cut(_at_most(sizes.height, second, second), _at_most(sizes.width, first, first))
    if step.crop_type == "absolute_range":
        return _cut(_at_most(sizes.height, first, second), _at_most(sizes.width, first, second))
    if step.crop_type == "relative":
        return _cut(_times(sizes.height, (second, second)), _times(sizes.width, (first, first)))
    return _cut(_times(sizes.height, (first, 1)), _times(sizes.width, (second, 1)))


@_after.register
def _(step: MinIoURandomCrop, sizes: Sizes) -> Sizes:
    height, width = ((max(math.floor(low * step.min_crop_size), 1), high) for low, high in sizes[:2])
    return _cut(height, width)


@_after.register
def _(step: Expand, sizes: Sizes) -> Sizes:
    least, most = 1, step.ratio_range[1]  # it may be left out
    height, width = ((low * least, high * most) for low, high in sizes[:2])
    return _scaled(sizes, _whole(height), _whole(width))


@_after.register
def _(step: Pad, sizes: Sizes) -> Sizes:
    if math.isinf(max(sizes.largest())):
        return _cut((sizes.height[0], math.inf), (sizes.width[0], math.inf))
    least, most = (padded_size(step, int(sizes.height[end]), int(sizes.width[end])) for end in (0, 1))
    found = _cut((least[0], most[0]), (least[1], most[1]))
    return found._replace(ratio=(1.0, 1.0)) if step.pad_to_square else found


@_after.register
def _(step: RandomChoice, sizes: Sizes) -> Sizes:
    return _union([after(steps, sizes) for steps in step.transforms])


def _resized(step: AnyResize, sizes: Sizes, least: WidthHeight, most: WidthHeight) -> Sizes:
    """After a resize to a scale between two."""
    if not step.keep_ratio:
        return _cut((least[1], most[1]), (least[0], most[0]))
    if least == most and sizes.height[0] == sizes.height[1] and sizes.width[0] == sizes.width[1]:
        return exactly(*size_at(step, int(sizes.height[0]), int(sizes.width[0]), most))
    half = 0.5 if step.rounding == "nearest" else 0.0
    low, high = sizes.ratio
    height = _side(low, least) + half, _side(high, most) + half
    width = _side(1 / high if high else math.inf, least) + half, _side(1 / low if low else math.inf, most) + half
    return _scaled(sizes, _whole(height), _whole(width))


def _side(ratio: float, scale: WidthHeight) -> float:
    """The side that is `ratio` times as long as the other one, of a photo that is resized to a scale."""
    longest, shortest = max(scale), min(scale)
    return min(longest, shortest * ratio) if ratio >= 1 else min(longest * ratio, shortest)


def _scaled(before: Sizes, height: Range, width: Range) -> Sizes:
    """After both sides were changed by one factor and rounded: the ratio is about what it was, and none of two sides
    becomes the longer one by it."""
    sizes = _cut(height, width)
    down, across = height[0] - 1, width[0] - 1  # no less before the rounding
    low = before.ratio[0] * (1 - 1 / down) / (1 + 1 / across) if down > 1 and across > 0 else 0.0
    high = before.ratio[1] * (1 + 1 / down) / (1 - 1 / across) if down > 0 and across > 1 else math.inf
    if before.ratio[0] >= 1:
        low = max(low, 1.0)
    if before.ratio[1] <= 1:
        high = min(high, 1.0)
    return sizes._replace(ratio=(max(sizes.ratio[0], low), min(sizes.ratio[1], high)))


def _cut(height: Range, width: Range) -> Sizes:
    """Any height with any width."""
    return Sizes(height, width, (height[0] / width[1], height[1] / width[0]))


def _union(parts: Sequence[Sizes]) -> Sizes:
    ranges = ((min(low for low, _ in found), max(high for _, high in found)) for found in zip(*parts, strict=True))
    return Sizes(*ranges)


def _at_most(sides: Range, first: float, second: float) -> Range:
    return min(sides[0], first), min(sides[1], second)


def _times(sides: Range, shares: Range) -> Range:
    return _whole((sides[0] * shares[0] + 0.5, sides[1] * shares[1] + 0.5))


def _whole(sides: Range) -> Range:
    """Rounded down as whole pixels are, but no bound closer because of the way a number was computed."""
    low, high = sides[0] * (1 - 1e-9), sides[1] * (1 + 1e-9)
    return max(math.floor(low), 1), high if math.isinf(high) else max(math.floor(high), 1)
