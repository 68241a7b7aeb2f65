"""What the targets of a split look like."""

import numpy as np

from jaxft.data.source import Source


def describe(source: Source, flags: bool = False) -> str:
    """Mean, deviation and range of every target; with `flags` those that would standardize them."""
    targets = np.stack([np.asarray(source[index].label, np.float64) for index in range(len(source))])
    means, deviations = targets.mean(axis=0), targets.std(axis=0)
    widest = max(map(len, source.classes))
    lines = [f"{len(source):,} images, targets:"]
    for name, mean, deviation, values in zip(source.classes, means, deviations, targets.T, strict=True):
        lines.append(
            f"  {name:<{widest}}  mean {mean:.6g}, deviation {deviation:.6g}, from {values.min():.6g} to "
            f"{values.max():.6g}" + (" (always the same: nothing to learn)" if deviation == 0 else "")
        )
    if flags:
        divisors = np.where(deviations > 0, deviations, 1)
        lines.append(f"  to standardize them: --task.target-mean {_plain(means)} --task.target-std {_plain(divisors)}")
    return "\n".join(lines)


def _plain(values: np.ndarray) -> str:
    """Six digits of each, without an exponent, which the command line would take for an option after a minus."""
    return " ".join(np.format_float_positional(value, 6, fractional=False, trim="-") for value in values)
