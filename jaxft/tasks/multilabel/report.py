"""How often the labels of a split occur."""

import numpy as np

from jaxft.data.source import Source


def describe(source: Source) -> str:
    """The number of images that have each label, and of those that have none."""
    targets = np.stack([np.asarray(source[index].label) for index in range(len(source))]) > 0
    counts = [*zip(source.classes, targets.sum(axis=0), strict=True), ("(none)", (~targets.any(axis=1)).sum())]
    widest = max(len(name) for name, _ in counts)
    lines = [f"  {name:<{widest}}  {count:,} ({count / len(source):.1%})" for name, count in counts]
    return "\n".join([f"{len(source):,} images, labels:", *lines])
