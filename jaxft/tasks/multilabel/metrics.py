"""How well labels are told: average precision and F1."""

from collections.abc import Collection, Sequence

import numpy as np

from jaxft.tasks.class_figures import average_precision, f1_score


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


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values) if values else 0.0
