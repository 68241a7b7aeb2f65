"""The moving average of a model: how much of the new values it takes after each step, and how."""

import math

import jax.numpy as jnp
from jax import Array

from jaxft.config import Ema


def ema_momentum(ema: Ema, step: int) -> float:
    """The share of the new values in the average after the step that follows `step` steps of a run.

    1 copies them, 0 leaves the average as it is. The plain mean of n + 1 models takes 1 / (n + 1) of the last, as
    PyTorch's `torch.optim.swa_utils.AveragedModel` does, updated after step `begin` and each `interval` steps later.
    Else it is what MMEngine's EMAHook does with `momentum=1 - decay`, `begin_iter=begin` and `interval`: it copies
    until it begins, and its first update copies once more; with a warm-up it is MMDetection's ExpMomentumEMA
    (mmdet/models/layers/ema.py) with `gamma=warmup`.
    """
    if not ema.kept:
        return 0.0
    updates = step - max(ema.begin - 1, 0)  # that came before this one
    if updates <= 0:
        return 1.0
    if updates % ema.interval:
        return 0.0
    if ema.decay is None:
        return 1 / (updates // ema.interval + 1)
    momentum = 1 - ema.decay
    return (1 - momentum) * math.exp(-(1 + updates) / ema.warmup) + momentum if ema.warmup else momentum


def averaged(average: Array, value: Array, momentum: float) -> Array:
    """The average with so much of a new value in it; traced.

    0 and 1 leave and copy to the last bit, and what does not change stays as it is. Counts are copied or left.
    """
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return jnp.where(momentum == 1, value, average)
    change = value - average
    return jnp.where(momentum < 0.5, average + change * momentum, value - change * (1 - momentum))
