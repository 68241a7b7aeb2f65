"""How often something is so over the probability that it is given."""

from typing import NamedTuple

import numpy as np

BINS = 15  # of the expected calibration error, as in the paper


class Bins(NamedTuple):
    """What a reliability diagram shows: by bin of the probability, `[BINS]` each, NaN in empty ones but for `members`.

    Attributes:
        members: how many there are.
        said: the mean probability.
        true: how often it was so.
    """

    members: np.ndarray
    said: np.ndarray
    true: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: the mean difference between what is said and what is so, each bin counted as
        often as it has members (https://arxiv.org/abs/1706.04599, equation 3)."""
        there = self.members > 0
        gaps = np.abs(self.true[there] - self.said[there])
        return float((self.members[there] * gaps).sum() / self.members.sum())


def reliability(said: np.ndarray, true: np.ndarray) -> Bins:
    """Probabilities `[N]` and whether it was so, bool `[N]`, in bins of equal width, closed to the right."""
    index = np.clip(np.ceil(said * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = (np.bincount(index, weights, BINS) / count for weights in (said, true.astype(np.float64)))
        return Bins(count, *means)
