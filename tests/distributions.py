"""Two draws of one distribution, compared."""

import numpy as np
from scipy.stats import ks_2samp


def check_alike(key: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """The same values where they are constant; else the same mean, deviation, range and, by a test of Kolmogorov and
    Smirnov with two samples, distribution."""
    assert ours.shape == theirs.shape, key
    ours, theirs = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    deviation, error = theirs.std(), 5 / np.sqrt(theirs.size)
    if deviation <= 1e-6 * np.abs(theirs).max():
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-12, err_msg=key)
        return
    assert abs(ours.mean() - theirs.mean()) < 1.5 * error * deviation, key
    assert abs(ours.std() - deviation) < 1.5 * error * deviation, key
    # The ends of a bounded distribution lie together; those of a normal one stray by about half a deviation.
    bounded = np.abs(theirs - theirs.mean()).max() < 2.2 * deviation
    for one, other in ((ours.min(), theirs.min()), (ours.max(), theirs.max())):
        assert abs(one - other) < ((0.02 + error) if bounded and theirs.size > 500 else 2.0) * deviation, key
    assert ks_2samp(ours, theirs).pvalue > 1e-4, key
