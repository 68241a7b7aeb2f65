"""What MMEngine's schedulers do to a learning rate, step by step, on the host in double precision.

Each takes the rate as the others have left it, in the order of the list, and acts on construction and after every epoch
or iteration, as MMEngine's loops drive `mmengine.optim.scheduler`.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pydantic

from jaxft.errors import UserError
from jaxft.fields import explain
from jaxft.schedulers import (
    ConstantLR,
    CosineAnnealingLR,
    CosineRestartLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolyLR,
    Scheduler,
    StepLR,
)

ENDLESS = 10**9  # MMEngine's end of a scheduler that never ends, which no conversion multiplies


@lru_cache(maxsize=32)
def scheduled(
    schedulers: tuple[Scheduler, ...], rate: float, steps: int, steps_per_epoch: int, parts: int = 1
) -> np.ndarray:
    """The learning rate of a parameter group at each step of a phase, float64 `[steps]`, not to be written to.

    Args:
        rate: of the group without schedulers.
        parts: of a step which MMEngine counts as iterations; the step is taken in the last of them.

    Raises:
        UserError: a scheduler does not fit the phase, or gives a rate that is no number.
    """
    length = steps_per_epoch * parts
    epochs, iterations = -(-steps // steps_per_epoch), steps * parts
    group = Group(rate, rate)
    rates = np.empty(iterations)
    running = [Running(_resolved(scheduler, epochs, iterations, length), group) for scheduler in schedulers]
    by_epoch = [each for each in running if each.scheduler.by_epoch]
    for first in range(0, iterations, length):
        last = min(first + length, iterations)
        by_iteration = [each for each in running if not each.scheduler.by_epoch and not each.over]
        rates[first:last] = group.rate
        for iteration in range(first, last) if by_iteration else ():
            rates[iteration] = group.rate
            for each in by_iteration:
                each.step()
        for each in by_epoch:
            each.step()
    found = rates[parts - 1 :: parts].copy()
    if not np.isfinite(found).all():
        step = int(np.argmin(np.isfinite(found)))
        raise UserError(f"The schedulers of a phase make the learning rate {found[step]} at its step {step + 1}.")
    found.flags.writeable = False
    return found


def _resolved(scheduler: Any, epochs: int, iterations: int, length: int) -> Any:
    """A scheduler with its end, and in iterations where it is to be converted, an epoch of which has this length."""
    changes: dict[str, Any] = {}
    end = scheduler.end
    if end is None:
        changes["end"] = end = epochs if scheduler.by_epoch else iterations
    if scheduler.convert_to_iter_based:
        changes |= {"by_epoch": False, "convert_to_iter_based": False, "begin": int(scheduler.begin * length)}
        changes["end"] = end if end == ENDLESS else int(end * length)
        for name in ("step_size", "T_max", "total_steps"):
            if getattr(scheduler, name, None) is not None:
                changes[name] = getattr(scheduler, name) * length
        for name in ("milestones", "periods"):
            if hasattr(scheduler, name):
                changes[name] = tuple(count * length for count in getattr(scheduler, name))
    try:
        return dataclasses.replace(scheduler, **changes)
    except pydantic.ValidationError as error:
        raise UserError(
            f"A scheduler does not fit a phase of {epochs} epoch(s), {iterations} iterations: {explain(error, {})}"
        ) from error


@dataclasses.dataclass
class Group:
    """What schedulers know of a parameter group: its rate now, the one it started from, and OneCycleLR's two ends."""

    rate: float
    initial: float
    highest: float = 0.0
    lowest: float = 0.0


class Running:
    """A scheduler at work on a group; `position` counts what has passed, `count` what it has acted on, from 0."""

    def __init__(self, scheduler: Any, group: Group) -> None:
        if isinstance(scheduler, OneCycleLR):
            group.highest, group.initial = scheduler.eta_max, scheduler.eta_max / scheduler.div_factor
            group.lowest = group.initial / scheduler.final_div_factor
        self.scheduler, self._group, self._initial = scheduler, group, group.initial
        self._milestones = Counter(scheduler.milestones) if isinstance(scheduler, MultiStepLR) else Counter[int]()
        self._position = self._count = -1
        self.step()

    @property
    def over(self) -> bool:
        """Whether it will not act any more."""
        return self._position + 1 >= self.scheduler.end

    def step(self) -> None:
        """Goes on by an epoch or iteration."""
        self._position += 1
        if self.scheduler.begin <= self._position < self.scheduler.end:
            self._count += 1
            try:
                self._group.rate = self._next()
            except ArithmeticError as error:
                raise UserError(
                    f"{self.scheduler.type} cannot be computed at its count {self._count} ({error}), nor does MMEngine "
                    f"compute it: {self.scheduler}."
                ) from error

    def _next(self) -> float:
        """The rate after this count."""
        rate, count, scheduler = self._group.rate, self._count, self.scheduler
        last = scheduler.end - scheduler.begin - 1
        match scheduler:
            case OneCycleLR():
                return _one_cycle(scheduler, count, self._group)
            case CosineRestartLR():
                return _cosine_restart(scheduler, count, rate, self._initial)
            case MultiStepLR():
                return rate * scheduler.gamma ** self._milestones[count] if count in self._milestones else rate
            case LinearLR() if count == 0:
                return rate * scheduler.start_factor
            case ConstantLR() if count == 0:
                return rate * scheduler.factor
            case _ if count == 0:
                return rate
            case LinearLR():
                way = scheduler.end_factor - scheduler.start_factor
                return rate * (1.0 + way / (last * scheduler.start_factor + (count - 1) * way))
            case ConstantLR():
                return rate * (1.0 / scheduler.factor) if count == last else rate
            case StepLR():
                return rate * scheduler.gamma if count % scheduler.step_size == 0 else rate
            case ExponentialLR():
                return rate * scheduler.gamma
            case PolyLR():
                left = (1 - 1 / (last - count + 1)) ** scheduler.power
                return (rate - scheduler.eta_min) * left + scheduler.eta_min
            case CosineAnnealingLR():
                return _cosine(scheduler, count, rate, self._initial)
        raise AssertionError("every scheduler is one of these")


def _minimum(scheduler: CosineAnnealingLR | CosineRestartLR, initial: float) -> float:
    return (scheduler.eta_min or 0.0) if scheduler.eta_min_ratio is None else initial * scheduler.eta_min_ratio


def _cosine(scheduler: Any, count: int, rate: float, initial: float) -> float:
    period, minimum = scheduler.T_max or scheduler.end - scheduler.begin, _minimum(scheduler, initial)
    if (count - 1 - period) % (2 * period) == 0:  # just after the minimum, from where no factor leads away
        return rate + (initial - minimum) * (1 - math.cos(math.pi / period)) / 2
    return _along_cosine(count, period, rate, minimum)


def _cosine_restart(scheduler: CosineRestartLR, count: int, rate: float, initial: float) -> float:
    since = count
    for period, weight in zip(scheduler.periods, scheduler.restart_weights, strict=True):
        if since < period:
            return _along_cosine(since, period, rate, _minimum(scheduler, initial)) if since else initial * weight
        since -= period
    return rate


def _along_cosine(count: int, period: float, rate: float, minimum: float) -> float:
    now, before = (1 + math.cos(math.pi * at / period) for at in (count, count - 1))
    return now / before * (rate - minimum) + minimum


def _one_cycle(scheduler: Any, count: int, group: Group) -> float:
    total = scheduler.total_steps or scheduler.end - scheduler.begin
    if count > total:
        raise UserError(
            f"OneCycleLR has total_steps={total}, but goes on until {scheduler.end - scheduler.begin}; MMEngine "
            "refuses that, too. Set its end, or leave total_steps out."
        )
    turn = float(scheduler.pct_start * total) - 1
    back = [float(2 * scheduler.pct_start * total) - 2] if scheduler.three_phase else []
    ends: Sequence[float] = [turn, *back, total - 1]
    values = [group.initial, group.highest, *([group.initial] if back else []), group.lowest]
    start = 0.0
    for index, end in enumerate(ends):
        if count <= end or index == len(ends) - 1:
            break
        start = end
    share, (before, after) = (count - start) / (end - start), values[index : index + 2]
    if scheduler.anneal_strategy == "linear":
        return (after - before) * share + before
    return after + (before - after) / 2.0 * (math.cos(math.pi * share) + 1)
