"""How the parameters and the gradients of each group are distributed, now and then."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.precision import precise
from jaxft.reporting.events import Histogram
from jaxft.reporting.progress import Reporter
from jaxft.training.layout import fetch
from jaxft.training.setup import Setup
from jaxft.training.stages import Stage
from jaxft.training.state import TrainState
from jaxft.training.step import Arrays, Batch, Compiled, StepInputs, loss_of_arrays

SMALLEST, LARGEST, EACH = -10, 4, 5  # powers of ten between which numbers are told apart, and bins of each
_STEPS = (LARGEST - SMALLEST) * EACH
_POSITIVE = 10.0 ** (SMALLEST + np.arange(_STEPS + 1) / EACH)
EDGES = np.concatenate([-_POSITIVE[::-1], _POSITIVE])
"""Of all histograms: what is smaller than 1e-10 counts as 0, what is larger than 1e4 as that."""


class _Held(NamedTuple):
    """What was computed after a step, and may not be there yet."""

    step: int
    found: Mapping[str, Mapping[str, Array]]


class Histograms:
    """Computes histograms every `config.histograms` steps, in a program of its own, and hands them on when the next
    ones are due, so that the device need not wait for the host.

    The gradient is that of a batch before the optimizer, without clipping; of a batch in several parts, of the first.
    """

    def __init__(self, setup: Setup, reporter: Reporter) -> None:
        self._setup, self._reporter = setup, reporter
        self._stage: Stage | None = None
        self._held: _Held | None = None

    def __call__(self, stage: Stage, state: TrainState, step: int, batch: Batch, inputs: StepInputs) -> None:
        """Called before the step that follows `step` steps, with what it will be given."""
        every = self._setup.config.histograms
        if not every or (step + 1) % every:
            return
        self.close()
        if stage is not self._stage:
            self._stage, self._compiled = stage, self._program(stage)
        self._held = _Held(step + 1, self._compiled(state, batch, inputs))

    def close(self) -> None:
        """Hands on what is held."""
        held, self._held = self._held, None
        if held is not None:
            found = jax.tree.map(fetch, held.found)
            self._reporter.histograms(held.step, {name: _histogram(sums) for name, sums in found.items()})

    def _program(self, stage: Stage) -> Compiled:
        setup, config, labels = self._setup, self._setup.config, stage.groups.labels
        trained, parts = sorted(stage.groups.trained), config.optimizer.accumulate
        loss = setup.through(
            loss_of_arrays(
                setup.template(stage),
                setup.loss,
                precision=config.precision,
                gathered=setup.layout.gathered,
                rematerialize=config.hardware.rematerialize,
            )
        )

        def histograms(state: TrainState, batch: Batch, inputs: StepInputs) -> dict[str, Arrays]:
            key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(inputs.key)), state.step)
            params = {path: state.params[path] for path in trained}
            frozen = {path: value for path, value in state.params.items() if path not in params}
            rows = {name: array.reshape(-1, parts, *array.shape[1:])[:, 0] for name, array in batch.items()}
            grads, _ = jax.grad(loss, has_aux=True)(params, frozen, state.stats, rows, key, inputs.teaching)
            found: dict[str, Arrays] = {}
            for label in sorted({labels[path] for path in trained}):
                paths = [path for path in trained if labels[path] == label]
                found[f"parameters/{label}"] = _sums([params[path] for path in paths])
                found[f"gradients/{label}"] = _sums([grads[path] for path in paths])
            return found

        return Compiled(
            precise(histograms, config.precision),
            budget=setup.shapes,
            compiling=lambda number: self._reporter.doing(
                f"compiling the histograms of phase {stage.index + 1}, program {number}"
            ),
        )


def _sums(arrays: list[Array]) -> Arrays:
    """What a `Histogram` needs of all numbers of some arrays together."""
    each = [_sums_of_one(array.astype(jnp.float32).reshape(-1)) for array in arrays]
    joined = jax.tree.map(lambda *values: jnp.stack(values), *each)
    return {
        "counts": joined["counts"].sum(0),
        "least": joined["least"].min(),
        "most": joined["most"].max(),
        "total": joined["total"].sum(),
        "squares": joined["squares"].sum(),
    }


def _sums_of_one(numbers: Array) -> Arrays:
    size = jnp.abs(numbers)
    power = jnp.floor((jnp.log10(jnp.maximum(size, 10.0 ** (SMALLEST - 1))) - SMALLEST) * EACH).astype(jnp.int32)
    beyond = jnp.clip(power, 0, _STEPS - 1)
    zero = jnp.full_like(power, _STEPS)  # the bin in the middle
    place = jnp.where(power < 0, zero, jnp.where(numbers > 0, _STEPS + 1 + beyond, _STEPS - 1 - beyond))
    return {
        "counts": jnp.bincount(place, length=2 * _STEPS + 1),
        "least": numbers.min(),
        "most": numbers.max(),
        "total": numbers.sum(),
        "squares": (numbers**2).sum(),
    }


def _histogram(sums: Mapping[str, np.ndarray]) -> Histogram:
    counts = np.asarray(sums["counts"])
    return Histogram(EDGES, counts, *(float(sums[name]) for name in ("least", "most", "total", "squares")))
