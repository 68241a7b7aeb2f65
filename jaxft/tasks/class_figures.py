"""How well each class is told, whether an example has one class or several; figures are scikit-learn's."""

from collections.abc import Sequence

import numpy as np

from jaxft.reporting.details import Curve, Plot, Table
from jaxft.reporting.reliability import reliability

CURVES = 10  # classes in a plot at most
SORTED = 5_000_000  # scores that are sorted for average precisions at most, which takes about three seconds


def class_table(names: Sequence[str], scores: np.ndarray, said: np.ndarray, true: np.ndarray) -> Table:
    """Precision, recall, F1 and average precision of each class, and how often it is there and is said.

    Precision and recall are NaN where they would divide by 0; F1 is 0 where all that is said is wrong.

    Args:
        scores: `[N, C]`; the larger the more likely.
        said, true: bool `[N, C]`.
    """
    rows, few = [], scores.size <= SORTED
    for column, name in enumerate(names):
        there, claimed = true[:, column], said[:, column]
        right, occurs, claims = int((there & claimed).sum()), int(there.sum()), int(claimed.sum())
        rows.append(
            (
                name,
                right / claims if claims else float("nan"),
                right / occurs if occurs else float("nan"),
                f1_score(claimed, there) if occurs or claims else float("nan"),
                average_precision(scores[:, column], there) if occurs and few else float("nan"),
                occurs,
                claims,
            )
        )
    columns = ("class", "precision", "recall", "F1", "AP", "examples", "predicted")
    title = "Classes" if few else f"Classes (of {scores.size:,} scores no average precision is taken)"
    return Table(name="classes", title=title, columns=columns, rows=tuple(rows))


def precision_recall_plot(names: Sequence[str], scores: np.ndarray, true: np.ndarray) -> Plot:
    """Precision over recall of the classes that occur most, at each score that occurs."""
    counts = true.sum(axis=0)
    chosen = sorted(np.argsort(-counts, kind="stable")[:CURVES].tolist())
    curves = []
    for column in chosen:
        if counts[column]:
            recall, precision = _curve(scores[:, column], true[:, column])
            curves.append(Curve(label=names[column], x=tuple(recall), y=tuple(precision)))
    title = "Precision and recall" + (f" of the {CURVES} most frequent classes" if len(names) > CURVES else "")
    return Plot(name="precision-recall", title=title, x="recall", y="precision", curves=tuple(curves), unit_square=True)


def calibration_plot(said: np.ndarray, right: np.ndarray) -> Plot:
    """How often what was said with a probability was so, in bins.

    Args:
        said: probabilities `[N]`.
        right: bool `[N]`.
    """
    found = reliability(said, right)
    there = found.members > 0
    curve = Curve(label="so often it was so", x=tuple(found.said[there]), y=tuple(found.true[there]), kind="markers")
    share = Curve(
        label="share of all",
        x=tuple((np.arange(len(there)) + 0.5) / len(there)),
        y=tuple(found.members / found.members.sum()),
        kind="bars",
    )
    title = f"Calibration: expected error {found.error:.1%}"
    return Plot(
        name="calibration",
        title=title,
        x="probability that is said",
        y="share",
        curves=(share, curve),
        diagonal=True,
        unit_square=True,
    )


def _curve(scores: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at each score that occurs, thinned to at most 200 points."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(true[order])[ends]
    kept = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), 200)).astype(int))
    return found[kept] / true.sum(), found[kept] / (ends[kept] + 1)


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
