"""How far gradients are from exact ones; NumPy only."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

PRECISIONS = ("float32", "tensorfloat32")


def errors(found: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of all gradients together, |found - exact| / |exact|; and of the tensor where that is worst.

    A tensor counts with at least a thousandth of the norm of all, since one that is exactly 0 has rounding alone.
    """
    whole = norm(*exact.values())
    off = {key: norm(found[key].astype(np.float64) - exact[key]) for key in exact}
    relative = {key: off[key] / max(norm(exact[key]), 1e-3 * whole) for key in exact}
    worst = max(relative, key=relative.__getitem__)
    return {"all": math.hypot(*off.values()) / whole, "worst": relative[worst], "tensor": worst}


def norm(*arrays: np.ndarray) -> float:
    """The Euclidean norm of arrays together."""
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)))
