"""A trace of some training steps by JAX's profiler."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from jaxft.places import in_bucket


class Trace:
    """Traces from the first to the last of some steps, counted from 1 over the whole run.

    Args:
        steps: the two; None traces nothing.
        folder: where each process leaves its trace, for TensorBoard or Perfetto.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path) -> None:
        self._steps, self._folder, self._begun = steps, folder, False
        self._scratch: tempfile.TemporaryDirectory[str] | None = None  # the profiler knows no buckets

    def before(self, step: int) -> None:
        """Called before each step."""
        if self._steps is not None and step == self._steps[0]:
            self._scratch = tempfile.TemporaryDirectory() if in_bucket(self._folder) else None
            jax.profiler.start_trace(str(self._folder) if self._scratch is None else self._scratch.name)
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
            if self._scratch is not None:
                _copy(Path(self._scratch.name), self._folder)
                self._scratch.cleanup()


def _copy(folder: Path, there: Path) -> None:
    """Copies all files of a folder into a bucket."""
    for file in folder.rglob("*"):
        if file.is_file():
            (there / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
