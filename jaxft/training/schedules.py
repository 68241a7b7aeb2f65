"""How the learning rate moves over a phase, with PyTorch's meaning of every number.

On the host and in float64, as PyTorch computes it: a schedule of JAX's operations would compile each of them.
"""

import math
from collections.abc import Callable, Collection
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from jaxft import config
from jaxft.errors import UserError
from jaxft.fields import differences
from jaxft.training.scheduled import scheduled

Rates = Callable[[ArrayLike], np.ndarray]
"""The learning rate at steps of a phase, counted from 0; float64."""


def schedule(settings: config.Schedule, rate: float, steps: int, steps_per_epoch: int, parts: int = 1) -> Rates:
    """The learning rate at each step of a phase of `steps` steps, counted from 0.

    The warm-up is PyTorch's `LinearLR(start_factor=warmup_factor, total_iters=warmup)` or `ConstantLR(factor=
    warmup_factor, total_iters=warmup)`, multiplied with the decay:
    `MultiStepLR` counted from the start of the phase; cosine from the end of the warm-up to the end of the phase; or
    one cycle as of `optax.cosine_onecycle_schedule`, which has its own warm-up. MMEngine's schedulers stand alone; see
    `scheduled`.

    Args:
        parts: in how many parts a batch goes through the model; each is a step where the schedule counts micro-batches.

    Raises:
        UserError: the parts contradict each other.
    """
    if settings.micro_batches and not settings.schedulers:
        raise UserError("micro_batches is for MMEngine's schedulers, but the schedule names none; leave it out.")
    if settings.schedulers:
        return _looked_up(settings, rate, steps, steps_per_epoch, parts)
    unit = steps_per_epoch if settings.unit == "epoch" else 1
    warmup = warmup_steps(settings, steps_per_epoch)
    if warmup >= steps:
        raise UserError(f"A warm-up of {warmup} steps does not fit a phase of {steps} steps; shorten it.")
    if bool(settings.milestones) != (settings.decay == "multistep"):
        raise UserError(
            f"The decay {settings.decay!r} has milestones {settings.milestones}; they belong to 'multistep'."
        )
    if settings.decay == "inherit":
        raise UserError("A phase has no schedule to inherit; choose another --phases.N.schedule.decay.")
    if settings.decay == "onecycle":
        if warmup:
            raise UserError("The decay 'onecycle' warms up by itself; set its warmup to 0.")
        return partial(_one_cycle, rate=rate, steps=steps, peak=settings.peak)
    if settings.decay == "multistep":
        milestones = {round(milestone * unit) for milestone in settings.milestones}
        decay: Rates = partial(_stairs, rate=rate, milestones=milestones, gamma=settings.gamma)
    else:
        final = settings.final if settings.decay == "cosine" else 1.0
        decay = partial(_cosine, high=rate, low=rate * final, begin=warmup, end=steps)
    if not warmup:
        return decay
    factor, constant = settings.warmup_factor, settings.warmup_shape == "constant"
    return lambda step: _warmed_up(step, factor, warmup, constant=constant) * decay(step)


def _cosine(step: ArrayLike, high: float, low: float, begin: int, end: int) -> np.ndarray:
    """Half a wave from `high` at step `begin` to `low` at step `end`; constant before and after."""
    done = (np.clip(step, begin, end) - begin) / (end - begin)
    return low + (high - low) * (1 + np.cos(math.pi * done)) / 2


def _stairs(step: ArrayLike, rate: float, milestones: Collection[int], gamma: float) -> np.ndarray:
    """A rate that is multiplied by `gamma` at each milestone."""
    return (rate * np.cumprod([1.0, *[gamma] * len(milestones)]))[np.searchsorted(sorted(milestones), step, "right")]


def _warmed_up(step: ArrayLike, factor: float, steps: int, *, constant: bool) -> np.ndarray:
    """From `factor` to 1.0 at step `steps`, in a line or at once."""
    done = np.clip(step, 0, steps) / steps
    return np.where(done < 1, factor if constant else factor + (1 - factor) * done, 1.0)


def _one_cycle(step: ArrayLike, rate: float, steps: int, peak: float) -> np.ndarray:
    """A cosine from 1/25 of a rate up to it, and one down to 1/250,000: Smith and Topin's one cycle with the numbers
    that optax gives it."""
    top = int(peak * steps)
    falling = _cosine(step, rate, rate / 25 / 1e4, top, steps)
    return np.where(np.asarray(step) < top, _cosine(step, rate / 25, rate, 0, max(top, 1)), falling)


def phase_steps(phase: config.Phase, steps_per_epoch: int) -> int:
    """The length of a phase in steps."""
    return phase.epochs * steps_per_epoch if phase.steps is None else phase.steps


def _looked_up(settings: config.Schedule, rate: float, steps: int, steps_per_epoch: int, parts: int) -> Rates:
    """A table of the rates that MMEngine's schedulers give."""
    alone = config.Schedule(schedulers=settings.schedulers, micro_batches=settings.micro_batches)
    if mixed := differences(settings, alone):
        raise UserError(
            f"A schedule has schedulers and {', '.join(mixed)}, which they stand in the place of; leave out one or the "
            "other."
        )
    rates = scheduled(settings.schedulers, rate, steps, steps_per_epoch, parts if settings.micro_batches else 1)

    def look_up(step: ArrayLike) -> np.ndarray:
        return rates[np.asarray(step)]

    return look_up


def warmup_steps(settings: config.Schedule, steps_per_epoch: int) -> int:
    """The length of the linear warm-up in steps."""
    unit = settings.unit if settings.warmup_unit == "same" else settings.warmup_unit
    return round(settings.warmup * (steps_per_epoch if unit == "epoch" else 1))


def tabulated(rates: Rates, steps: int) -> np.ndarray:
    """The rates at steps 0 to `steps` - 1, float64 `[steps]`."""
    return rates(np.arange(steps))
