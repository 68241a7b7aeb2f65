"""What a split of photos with objects holds, and what of it training will not see: a table for a person."""

import numpy as np

from jaxft.tasks.detection.objects import ObjectSource

_BINS = (0, 1, 2, 5, 10, 20, 50, 100, 200)  # where the bars of the histogram begin
_WIDTH = 40
_LARGE_SHARE = 0.1


def describe(
    source: ObjectSource,
    max_objects: int,
    pad_shapes: tuple[tuple[int, int], ...],
    buckets: np.ndarray,
    batch_size: int,
) -> str:
    """Photos, boxes of each class, how many a photo has, what the limit on objects drops, and boxes that are not whole.

    Args:
        max_objects: the objects of a photo that training sees.
        pad_shapes: height and width; `buckets` `[photos]` says which one each photo is padded to.
        batch_size: shapes with fewer photos are said, because they will be repeated.
    """
    found = [example.objects for example in source.examples]
    counts = np.array([len(objects.labels) for objects in found])
    none = np.zeros(0)
    labels = np.concatenate([none, *(objects.labels[~objects.ignored] for objects in found)]).astype(int)
    ignored = sum(int(objects.ignored.sum()) for objects in found)
    dropped = np.maximum(counts - max_objects, 0)
    total = int(counts.sum())
    lines = [
        f"{source.where}: {len(source):,} photos, {total:,} boxes"
        + (f", of which {ignored:,} are to be ignored (crowds, difficult objects)" if ignored else ""),
        "  boxes of each class: "
        + ", ".join(f"{name} {int((labels == label).sum()):,}" for label, name in enumerate(source.classes)),
        *_histogram(counts),
        f"  the limit of {max_objects} objects a photo drops {dropped.sum() / max(total, 1):.2%} of the boxes"
        + (f": {dropped.sum():,}, in {(dropped > 0).sum():,} photos (--task.max-objects)" if dropped.any() else ""),
        *_left_out(source, total),
    ]
    for index, (height, width) in enumerate(pad_shapes):
        members = int((buckets == index).sum())
        short = " (fewer than a batch: in training they are repeated)" if members < batch_size else ""
        if members:
            lines.append(f"  padded to {height} x {width}: {members:,} photos{short}")
    return "\n".join(lines)


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
