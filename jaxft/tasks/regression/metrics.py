"""How far predicted numbers are from the true ones."""

from collections.abc import Sequence

import numpy as np


def regression_metrics(predicted: np.ndarray, true: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """R² and errors, as scikit-learn defines them.

    Args:
        predicted, true: `[examples, targets]`.
        names: of the targets.

    Returns:
        `r2`, `mae` and `rmse`, means over the targets, and `r2/NAME` and `mae/NAME` of each. The R² of a target that is
        always the same is 1 where every prediction is right and 0 otherwise.
    """
    errors, true = (np.asarray(predicted) - true).astype(np.float64), true.astype(np.float64)
    squares, spread = (errors**2).sum(axis=0), ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    r2 = np.where(spread > 0, 1 - squares / np.where(spread > 0, spread, 1), squares == 0)
    mae, rmse = np.abs(errors).mean(axis=0), np.sqrt((errors**2).mean(axis=0))
    metrics = {"r2": float(r2.mean()), "mae": float(mae.mean()), "rmse": float(rmse.mean())}
    for name, value, error in zip(names, r2, mae, strict=True):
        metrics |= {f"r2/{name}": float(value), f"mae/{name}": float(error)}
    return metrics
