"""How well labels are told: average precision and F1."""

from collections.abc import Collection, Sequence

import numpy as np


def multilabel_metrics(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], threshold: float
) -> dict[str, float]:
    """Average precision, and F1 of labels with at least a probability, as scikit-learn defines them.

    Args:
        probabilities: `[examples, labels]`; any scores will do for average precision.
        labels: 0 or 1, `[examples, labels]`.
        names: of the labels.

    Returns:
        `mAP` and `f1`, means over the labels that occur, 0 where none does, and `AP/NAME` and `f1/NAME` of each that
        occurs.
    """
    true, said = labels > 0, probabilities >= threshold
    occurring = [(column, name) for column, name in enumerate(names) if true[:, column].any()]
    precision = {f"AP/{name}": average_precision(probabilities[:, i], true[:, i]) for i, name in occurring}
    f1 = {f"f1/{name}": f1_score(said[:, i], true[:, i]) for i, name in occurring}
    return {"mAP": _mean(precision.values()), "f1": _mean(f1.values())} | precision | f1


def average_precision(scores: np.ndarray, true: np.ndarray) -> float:
    """Precision at each score that occurs, weighted by how much recall grows there, of bool `[N]` with a true one.

    Examples of one score are taken together, so that their order does not matter.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(true[order])[ends]
    return float((np.diff(found, prepend=0) * found / (ends + 1)).sum() / true.sum())


def f1_score(said: np.ndarray, true: np.ndarray) -> float:
    """The harmonic mean of precision and recall of bool `[N]`, with a true one in `true`."""
    return float(2 * (said & true).sum() / (said.sum() + true.sum()))


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values) if values else 0.0
