"""A trace of some training steps by JAX's profiler."""

from pathlib import Path
from typing import Any

import jax


class Trace:
    """Traces from the first to the last of some steps, counted from 1 over the whole run.

    Args:
        steps: the two; None traces nothing.
        folder: where each process leaves its trace, for TensorBoard or Perfetto.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path) -> None:
        self._steps, self._folder, self._begun = steps, folder, False

    def before(self, step: int) -> None:
        """Called before each step."""
        if self._steps is not None and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._begun = True

    def after(self, step: int, results: Any) -> None:
        """Called after each step, with what it gives."""
        if self._begun and self._steps is not None and step == self._steps[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that has begun."""
        if self._begun:
            self._begun = False
            jax.profiler.stop_trace()
