"""How the learning rate moves over a phase: optax schedules with PyTorch's meaning of every number."""

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxft import config
from jaxft.errors import UserError
from jaxft.fields import differences
from jaxft.training.layout import on_host
from jaxft.training.scheduled import scheduled


def schedule(
    settings: config.Schedule, rate: float, steps: int, steps_per_epoch: int, parts: int = 1
) -> optax.Schedule:
    """The learning rate at each step of a phase of `steps` steps, counted from 0.

    The warm-up is PyTorch's `LinearLR(start_factor=warmup_factor, total_iters=warmup)` or `ConstantLR(factor=
    warmup_factor, total_iters=warmup)`, multiplied with the decay:
    `MultiStepLR` counted from the start of the phase; cosine from the end of the warm-up to the end of the phase; or
    `optax.cosine_onecycle_schedule`, which has its own warm-up. MMEngine's schedulers stand alone; see `scheduled`.

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
        return optax.cosine_onecycle_schedule(steps, rate, pct_start=settings.peak)
    if settings.decay == "multistep":
        milestones = {round(milestone * unit): settings.gamma for milestone in settings.milestones}
        decay = optax.piecewise_constant_schedule(rate, milestones)
    else:
        final = settings.final if settings.decay == "cosine" else 1.0
        cosine = optax.cosine_decay_schedule(rate, steps - warmup, alpha=final)
        decay = optax.join_schedules([optax.constant_schedule(rate), cosine], [warmup])
    if not warmup:
        return decay
    if settings.warmup_shape == "constant":
        ramp = optax.join_schedules([optax.constant_schedule(settings.warmup_factor), lambda _: 1.0], [warmup])
    else:
        ramp = optax.linear_schedule(settings.warmup_factor, 1.0, warmup)
    return lambda step: ramp(step) * decay(step)


def phase_steps(phase: config.Phase, steps_per_epoch: int) -> int:
    """The length of a phase in steps."""
    return phase.epochs * steps_per_epoch if phase.steps is None else phase.steps


def _looked_up(settings: config.Schedule, rate: float, steps: int, steps_per_epoch: int, parts: int) -> optax.Schedule:
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


def tabulated(schedule: optax.Schedule, steps: int) -> np.ndarray:
    """The values of a schedule at steps 0 to `steps` - 1, float64 `[steps]`, computed on the host as PyTorch does."""
    with on_host(), jax.enable_x64(True):
        return np.broadcast_to(np.asarray(schedule(np.arange(steps)), np.float64), (steps,))
