"""What a split of photos with objects holds, and what of it training will not see: a table for a person."""

from collections.abc import Sequence

import numpy as np

from jaxft.tasks.detection.mixtures import CopyPaste, Mixture, MixUp, Mosaic
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.steps import TrainSteps

_BINS = (0, 1, 2, 5, 10, 20, 50, 100, 200)  # where the bars of the histogram begin
_WIDTH = 40
_LARGE_SHARE = 0.1


def describe(
    source: ObjectSource,
    max_objects: int,
    pad_shapes: tuple[tuple[int, int], ...],
    buckets: np.ndarray,
    batch_size: int,
    mixed: TrainSteps = (),
) -> str:
    """Photos, boxes of each class, how many a photo has, what the limit on objects drops, and boxes that are not whole.

    Args:
        max_objects: the objects of a photo that training sees.
        pad_shapes: height and width; `buckets` `[photos]` says which one each photo is padded to.
        batch_size: shapes with fewer photos are said, because they will be repeated.
        mixed: the steps that put photos together, among others.
    """
    found = [example.objects for example in source.examples]
    counts = np.array([len(objects.labels) for objects in found])
    none = np.zeros(0)
    labels = np.concatenate([none, *(objects.labels[~objects.ignored] for objects in found)]).astype(int)
    ignored = sum(int(objects.ignored.sum()) for objects in found)
    mixtures = [step for step in mixed if isinstance(step, Mixture)]
    total = int(counts.sum())
    lines = [
        f"{source.where}: {len(source):,} photos, {total:,} boxes"
        + (f", of which {ignored:,} are to be ignored (crowds, difficult objects)" if ignored else ""),
        "  boxes of each class: "
        + ", ".join(f"{name} {int((labels == label).sum()):,}" for label, name in enumerate(source.classes)),
        *_histogram(counts),
        _mixed_limit(counts, max_objects, mixtures) if mixtures else _limit(counts, max_objects),
        *_left_out(source, total),
    ]
    few = " (fewer than a batch: in training they are repeated, each time augmented anew)"
    for index, (height, width) in enumerate(pad_shapes):
        if members := int((buckets == index).sum()):
            lines.append(f"  padded to {height} x {width}: {members:,} photos{few if members < batch_size else ''}")
    return "\n".join(lines)


def _limit(counts: np.ndarray, max_objects: int) -> str:
    dropped, total = np.maximum(counts - max_objects, 0), int(counts.sum())
    return f"  the limit of {max_objects} objects a photo drops {dropped.sum() / max(total, 1):.2%} of the boxes" + (
        f": {dropped.sum():,}, in {(dropped > 0).sum():,} photos (--task.max-objects)" if dropped.any() else ""
    )


def _mixed_limit(counts: np.ndarray, max_objects: int, mixtures: Sequence[Mixture]) -> str:
    chances = mixed_counts(counts, mixtures)
    numbers = np.arange(len(chances))
    mean, dropped = (float(chances @ some) for some in (numbers, np.maximum(numbers - max_objects, 0)))
    names = ", ".join(dict.fromkeys(step.type for step in mixtures))
    return (
        f"  {names}: up to {numbers[-1]:,} boxes come together, {mean:.1f} on average, before steps drop any; the "
        f"limit of {max_objects} objects drops at most {dropped / max(mean, 1e-9):.2%} of them (--task.max-objects)"
    )


def mixed_counts(counts: np.ndarray, mixtures: Sequence[Mixture]) -> np.ndarray:
    """How likely each number of objects is in an example of several photos, where no step drops any.

    Args:
        counts: objects of each photo, int `[photos]`.
        mixtures: what puts photos together; each of the others is any photo, whatever the rest.

    Returns:
        float `[most + 1]`.
    """
    one = np.bincount(counts, minlength=2) / len(counts)
    found = one
    for step in mixtures:
        if isinstance(step, Mosaic):
            four = np.convolve(np.convolve(found, one), np.convolve(one, one))
            four *= step.prob
            four[: len(found)] += (1 - step.prob) * found
            found = four
        else:
            found = np.convolve(found, _beside(one, step))
    return np.trim_zeros(found, "b")


def _beside(one: np.ndarray, step: MixUp | CopyPaste) -> np.ndarray:
    """How likely each number of objects is that another photo gives, of which any photo has `one`."""
    if isinstance(step, MixUp):
        none = one[0] ** step.max_iters
        given = one * (1 - none) / max(1 - one[0], 1e-12)
        given[0] = none
        return given
    if not step.selected:
        return one
    given = np.zeros(len(one))
    for count, chance in enumerate(one):
        kinds = min(count + 1, step.max_num_pasted)
        given[:kinds] += chance / kinds
    return given


def _left_out(source: ObjectSource, kept: int) -> list[str]:
    """What was clipped, and what was left out for which reason; a warning where that is a large share."""
    reasons = {
        "narrower or lower than a pixel": source.flat,
        "with the area 0": source.no_area,
        "marked ignore": source.set_aside,
    }
    dropped = sum(reasons.values())
    total = kept + dropped
    named = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    lines = [
        f"  {source.outside:,} boxes reached beyond their photo and are clipped; {dropped:,} are left out"
        + (f" ({dropped / total:.2%}): {named}" if dropped else "")
    ]
    if dropped > _LARGE_SHARE * total:
        lines.append(f"  WARNING: training does not see {dropped:,} of the {total:,} boxes ({named}); is that meant?")
    if source.outside > _LARGE_SHARE * total:
        lines.append(
            f"  WARNING: {source.outside:,} of the {total:,} boxes reach beyond their photo; are the photos of another "
            "size than those that were annotated?"
        )
    return lines


def _histogram(counts: np.ndarray) -> list[str]:
    """A line for each range of box counts that occurs."""
    edges = [*_BINS, max(int(counts.max(initial=0)) + 1, _BINS[-1] + 1)]
    heights, _ = np.histogram(counts, edges)
    heights[-1] += (counts == edges[-1]).sum()
    longest = max(int(heights.max()), 1)
    lines = []
    for first, after, height in zip(edges, edges[1:], heights, strict=False):
        if height:
            name = f"{first}" if after == first + 1 else f"{first} to {after - 1}"
            lines.append(f"  {name:>12} boxes: {height:6,} photos {'#' * max(round(_WIDTH * height / longest), 1)}")
    return lines
