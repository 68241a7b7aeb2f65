"""What to try next, by rule, from what a run has written."""

from typing import NamedTuple

import numpy as np

from jaxft.reporting.details import Evaluation
from jaxft.reporting.history import History, Line, smoothed

OVERFITTED = 0.1  # by which the validation loss is above its lowest
STEEP = 0.05  # by which the training loss still falls in the last tenth of a run
WAITING = 0.3  # the share of the time that is spent waiting for data
UNEVEN = 3.0  # how many times as many examples the largest class has as the smallest
BEHIND = 0.1  # by which the recall of rare classes is below that of frequent ones
FEW = 8  # lines of training below which nothing is said of its curve


class Advice(NamedTuple):
    """A sentence, and options to add to the command."""

    text: str
    options: str = ""


class Budget(NamedTuple):
    """What the rules know of a configuration: its last phase and the epochs of that (None where it counts steps), its
    workers, its learning rate, and whether classes can be weighted and are not yet."""

    phase: int
    epochs: int | None
    workers: int
    rate: float
    unweighted: bool


def advice(history: History, evaluation: Evaluation | None, budget: Budget) -> list[Advice]:
    """All that applies, the gravest first."""
    found = [
        _unstable(history.train, budget),
        _overfitted(history),
        _unfinished(history.train, budget),
        _uneven(evaluation) if budget.unweighted else None,
        _waiting(history.train, budget),
        _overconfident(evaluation),
    ]
    return [each for each in found if each is not None]


def _losses(lines: list[Line]) -> np.ndarray:
    return np.array([line["loss"] for line in lines if "loss" in line], float)


def _unstable(lines: list[Line], budget: Budget) -> Advice | None:
    losses = _losses(lines)
    if len(losses) < FEW:
        return None
    if not np.isfinite(losses).all():
        step = lines[int((~np.isfinite(losses)).argmax())]["step"]
        return Advice(
            f"The training loss is not finite from step {step} on: the rate may be too high. Try a lower one, or let "
            "jaxft lr-find look for it.",
            f"--optimizer.learning-rate {budget.rate / 10:.3g}",
        )
    first, last = losses[: max(len(losses) // 10, 2)].mean(), losses[-max(len(losses) // 10, 2) :].mean()
    if last <= 1.2 * first:
        return None
    return Advice(
        f"The training loss rises, from {first:.3g} to {last:.3g}: the rate may be too high. Try a lower one, or let "
        "jaxft lr-find look for it.",
        f"--optimizer.learning-rate {budget.rate / 10:.3g}",
    )


def _overfitted(history: History) -> Advice | None:
    losses, train = _losses(history.validation), _losses(history.train)
    if len(losses) < 3 or not np.isfinite(losses).all() or len(train) < 2:
        return None
    lowest = int(losses.argmin())
    if losses[-1] <= (1 + OVERFITTED) * losses[lowest] or train[-1] >= train[0]:
        return None
    epoch = history.validation[lowest]["epoch"]
    return Advice(
        f"Overfitting: the validation loss was lowest in epoch {epoch} ({losses[lowest]:.3g}) and is {losses[-1]:.3g} "
        "at the end, while the training loss goes on falling. Stop earlier, train less of the network, augment more.",
        "--early-stopping.patience 3 --early-stopping.min-delta 0 --early-stopping.metric=-loss",
    )


def _unfinished(lines: list[Line], budget: Budget) -> Advice | None:
    losses = _losses(lines)
    if len(losses) < 2 * FEW or not np.isfinite(losses).all():
        return None
    smooth = np.array(smoothed(losses.tolist()))
    before = smooth[-max(len(smooth) // 10, 2) - 1]
    if before <= 0 or smooth[-1] > (1 - STEEP) * before:
        return None
    return Advice(
        f"Not finished: the training loss still falls, by {1 - smooth[-1] / before:.0%} in the last tenth. Train "
        "longer, or with a higher rate.",
        "" if budget.epochs is None else f"--phases.{budget.phase}.epochs {2 * budget.epochs}",
    )


def _uneven(evaluation: Evaluation | None) -> Advice | None:
    table = (
        next((table for table in evaluation.details.tables if table.name == "classes"), None) if evaluation else None
    )
    if table is None or not {"recall", "examples"} <= set(table.columns):
        return None
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    known = [
        (int(row["examples"] or 0), float(row["recall"] or 0), str(row["class"])) for row in rows if row["examples"]
    ]
    if len(known) < 2:
        return None
    known.sort()
    half = len(known) // 2
    rare, frequent = (np.mean([recall for _, recall, _ in part]) for part in (known[:half], known[half:]))
    if known[-1][0] < UNEVEN * known[0][0] or rare > frequent - BEHIND:
        return None
    return Advice(
        f"Uneven classes: {known[0][2]} has {known[0][0]} examples and {known[-1][2]} {known[-1][0]}, and of the rarer "
        f"half {rare:.0%} are found, of the others {frequent:.0%}.",
        "--task.class-weights balanced",
    )


def _waiting(lines: list[Line], budget: Budget) -> Advice | None:
    waits = [line["data_wait"] for line in lines[len(lines) // 2 :] if "data_wait" in line]
    if not waits or np.median(waits) < WAITING:
        return None
    return Advice(
        f"Training waits for data {np.median(waits):.0%} of the time. Let more processes decode photos.",
        f"--data.workers {max(2 * budget.workers, 2)}",
    )


def _overconfident(evaluation: Evaluation | None) -> Advice | None:
    plots = evaluation.details.plots if evaluation else ()
    plot = next((plot for plot in plots if plot.name == "calibration"), None)
    if plot is None:
        return None
    share, points = plot.curves
    heights = np.array([height for height in share.y if height], float)
    gaps = np.abs(np.array(points.x, float) - np.array(points.y, float))
    error = float((heights * gaps).sum())
    if error < 0.05:
        return None
    return Advice(f"What it says with a probability is off by {error:.0%} on average: jaxft calibrate mends that.")
