"""What a person sees while a run goes on: a live line or plain lines, metrics.jsonl, and TensorBoard."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

QUIET = 30.0  # seconds without a line after which a run without a terminal says what it is doing


class Heartbeat:
    """Where there is no terminal: a plain line whenever nothing was printed for `QUIET` seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.doing, self._since, self._printed = "starting", time.monotonic(), time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, doing: str) -> None:
        """Notes what is being done from now on."""
        self.doing, self._since = doing, time.monotonic()

    def printed(self) -> None:
        """Notes that a line was printed."""
        self._printed = time.monotonic()

    def start(self) -> None:
        """Starts to watch, unless there is a terminal, which has its live line."""
        if not self._console.is_terminal and not self._console.quiet:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(min(QUIET / 4, 1.0)):
            now = time.monotonic()
            if now - self._printed >= QUIET:
                self._console.print(f"still {self.doing} ({now - self._since:.0f} s)", highlight=False)
                self._printed = now


class Reporter:
    """Writes and shows the metrics of a run; of several processes the first one writes.

    Args:
        folder: the run directory; `metrics.jsonl` and TensorBoard's events go there.
        start_step: what a run that goes on starts from; lines of later steps, which will come again, are dropped.
        total_steps: of the whole run, for the time left.
    """

    def __init__(
        self, folder: Path, *, start_step: int, total_steps: int, steps_per_epoch: int, console: Console
    ) -> None:
        self.console, self._total, self._steps_per_epoch = console, total_steps, steps_per_epoch
        self._metrics = folder / "metrics.jsonl"
        self._file: TextIO | None = None
        if jax.process_index() == 0:
            self._drop_after(start_step)
            self._file = self._metrics.open("a", encoding="utf-8")
            self._events = _event_writer(folder / "tensorboard", start_step)
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
        self._bar = self._progress.add_task("", total=total_steps, completed=start_step, epoch="", line="starting ...")
        self._heartbeat = Heartbeat(console)
        self._waited, self._since, self._images = 0.0, time.perf_counter(), 0

    def __enter__(self) -> Self:
        self._heartbeat.start()
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._heartbeat.stop()
        if self.console.is_terminal:
            self._progress.stop()
        if self._file is not None:
            self._file.close()
            self._events.close()

    def evaluated(self) -> set[int]:
        """The steps whose evaluation has been written already."""
        if not self._metrics.is_file():
            return set()
        lines = map(json.loads, self._metrics.read_text(encoding="utf-8").splitlines())
        return {line["step"] for line in lines if line["split"] == "validation"}

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

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Shows what is being done while it lasts, such as compiling; it does not count in images per second."""
        before, began = self._heartbeat.doing, time.perf_counter()
        self._heartbeat.begin(what)
        self._progress.update(self._bar, line=f"{what} ...")
        try:
            yield
        finally:
            self._heartbeat.begin(before)
            self._since += time.perf_counter() - began

    def _epoch(self, step: int) -> int:
        """The epoch, from 1, that a step belongs to."""
        return -(-step // self._steps_per_epoch)

    def advance(self, step: int, images: int, waited: float) -> None:
        """Counts one step, the `step`-th: `images` in it, `waited` seconds until its data were there."""
        self._images += images
        self._waited += waited
        epoch = self._epoch(step)
        self._heartbeat.begin(f"training, step {step} of {self._total}, epoch {epoch}")
        self._progress.update(self._bar, completed=step, epoch=f"epoch {epoch}")

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs training metrics (means since the last call) with the speed since then."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speed = {"images_per_second": self._images / seconds, "data_wait": self._waited / seconds}
        self._write(step, "train", {**metrics, **speed})
        line = (
            f"loss {metrics['loss']:.4f}  rate {metrics['learning_rate']:.2g}  "
            f"{speed['images_per_second']:.1f} images/s  {speed['data_wait']:.0%} waiting for data"
        )
        self._progress.update(self._bar, line=line)
        if not self.console.is_terminal:
            self.say(f"epoch {self._epoch(step)}  step {step}/{self._total}  {line}")
        self._waited, self._since, self._images = 0.0, time.perf_counter(), 0

    def evaluation(self, step: int, metrics: Mapping[str, float], best: bool) -> None:
        """Logs the metrics of an evaluation and prints them as a line that stays."""
        self._write(step, "validation", metrics)
        # Figures of one class, NAME/CLASS, are many; they are in the files.
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
        self.say(f"epoch {self._epoch(step)}  step {step}  validation: {text}{'  (best)' if best else ''}")

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self._heartbeat.printed()
        self.console.print(text, highlight=False, markup=False)

    def _write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        if self._file is None:
            return
        entry: dict[str, Any] = {"step": step, "epoch": self._epoch(step), "split": split, **metrics}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(f"{split}/{name}", value, step)


def _event_writer(folder: Path, start_step: int) -> Any:
    """TensorBoard's events. tensorboardX imports PyTorch wherever it is installed, which takes seconds and serves
    tensors alone, of which none come here."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hide:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=start_step + 1)
