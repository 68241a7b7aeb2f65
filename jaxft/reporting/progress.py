"""What a person sees while a run goes on: a live line, metrics.jsonl, and TensorBoard."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter


class Reporter:
    """Writes and shows the metrics of a run; of several processes the first one writes.

    Args:
        folder: the run directory; `metrics.jsonl` and TensorBoard's events go there.
        start_step: what a run that goes on starts from; lines of later steps, which will come again, are dropped.
        total_steps: of the whole run, for the time left.
    """

    def __init__(self, folder: Path, *, start_step: int, total_steps: int, console: Console) -> None:
        self.console = console
        self._metrics = folder / "metrics.jsonl"
        self._file: TextIO | None = None
        if jax.process_index() == 0:
            self._drop_after(start_step)
            self._file = self._metrics.open("a", encoding="utf-8")
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)
        self._progress = Progress(
            TextColumn("[bold]{task.fields[epoch]}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task("", total=total_steps, completed=start_step, epoch="", line="compiling ...")
        self._waited, self._since, self._images = 0.0, time.perf_counter(), 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._file is not None:
            self._file.close()
            self._events.close()

    def _drop_after(self, step: int) -> None:
        if not self._metrics.is_file():
            return
        lines = []
        for line in self._metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    lines.append(line + "\n")
            except (ValueError, KeyError):
                continue  # the line that a kill cut in two
        temporary = self._metrics.with_suffix(".tmp")
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, self._metrics)

    def advance(self, step: int, steps_per_epoch: int, images: int, waited: float) -> None:
        """Counts one step, the `step`-th: `images` in it, `waited` seconds until its data were there."""
        self._images += images
        self._waited += waited
        self._progress.update(self._bar, completed=step, epoch=f"epoch {-(-step // steps_per_epoch)}")

    def restart_clock(self) -> None:
        """Leaves out what just happened (compilation, evaluation) from images per second."""
        self._waited, self._since, self._images = 0.0, time.perf_counter(), 0

    def train(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Logs training metrics (means since the last call) with the speed since then."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speed = {"images_per_second": self._images / seconds, "data_wait": self._waited / seconds}
        self._write(step, epoch, "train", {**metrics, **speed})
        line = (
            f"loss {metrics['loss']:.4f}  rate {metrics['learning_rate']:.2g}  "
            f"{speed['images_per_second']:.1f} images/s  {speed['data_wait']:.0%} waiting for data"
        )
        self._progress.update(self._bar, line=line)
        self.restart_clock()

    def evaluation(self, step: int, epoch: int, metrics: Mapping[str, float], best: bool) -> None:
        """Logs the metrics of an evaluation and prints them as a line that stays."""
        self._write(step, epoch, "test", metrics)
        # Figures of one class, NAME/CLASS, are many; they are in the files.
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
        self.console.print(f"epoch {epoch}  step {step}  test: {text}{'  (best)' if best else ''}", highlight=False)

    def _write(self, step: int, epoch: int, split: str, metrics: Mapping[str, float]) -> None:
        if self._file is None:
            return
        entry: dict[str, Any] = {"step": step, "epoch": epoch, "split": split, **metrics}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(f"{split}/{name}", value, step)
