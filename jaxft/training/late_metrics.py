"""Metrics of training steps, fetched when the next line is due, so that the device need not wait for the host."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxft.reporting.progress import Reporter


class _Line(NamedTuple):
    """The metrics of some steps, the number of the last one, and what the host knows of them already."""

    step: int
    metrics: Sequence[Mapping[str, Array]]
    settled: Mapping[str, float]
    all_finite: Array


class LateMetrics:
    """Collects the metrics of steps, and gives a reporter a line of their means when they are surely computed.

    To fetch the numbers of a step that is not done would keep the device waiting for the next one.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._pending: list[Mapping[str, Array]] = []
        self._held: _Line | None = None

    def add(self, metrics: Mapping[str, Array]) -> None:
        """The metrics of one more step, which may not be computed yet."""
        self._pending.append(metrics)

    def hold(self, step: int, all_finite: Array, settled: Mapping[str, float]) -> None:
        """Makes a line of the steps since the last one, to be written later; `write` comes first.

        Args:
            step: the last one.
            all_finite: the state's after it, whose memory the next step takes.
            settled: what else the line has.
        """
        copied = jnp.copy(all_finite.addressable_data(0))
        self._held = _Line(step, self._pending, {**settled, **self._reporter.speed()}, copied)
        self._pending = []

    def write(self) -> bool:
        """Writes the line that is held, unless its numbers were not finite any more; whether they were."""
        line, self._held = self._held, None
        if line is None:
            return True
        fetched = jax.device_get(line.metrics)
        if not bool(line.all_finite):
            return False
        means = {name: float(np.mean([metrics[name] for metrics in fetched])) for name in fetched[0]}
        self._reporter.train(line.step, {**means, **line.settled})
        return True
