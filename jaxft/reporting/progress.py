"""What a training run reports: a line of figures on the screen, metrics.jsonl, TensorBoard, pictures, a tracker."""

import json
import statistics
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
from PIL import Image

from jaxft.activity import Counted, doing, sign_of_life
from jaxft.memory import peak_bytes
from jaxft.places import write_whole
from jaxft.processes import said_last, say
from jaxft.reporting.details import whole
from jaxft.reporting.events import Events, Histogram, TensorBoard
from jaxft.reporting.history import history_of
from jaxft.reporting.lines import Lines
from jaxft.reporting.screen import Screen
from jaxft.reporting.time_spent import INPUT, TimeSpent
from jaxft.reporting.trackers import open_tracker

TIMES = (
    *("images_per_second", "step_seconds", "data_wait", "data_wait_most", "data_wait_process"),
    *("goodput", "peak_memory"),
)
"""The figures of a line of metrics that another run of the same configuration has otherwise."""


class Course(NamedTuple):
    """What a reporter knows of a run.

    Attributes:
        phases: the last step of each.
        pictures: whether learning curves are drawn.
        tracker: see `jaxft.reporting.trackers`.
        settings: the configuration, by dotted path, for the tracker.
    """

    steps_per_epoch: int
    phases: tuple[int, ...]
    pictures: bool
    tracker: str
    settings: Mapping[str, object]

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.phases[-1]


class Reporter:
    """Writes and shows the metrics of a run; of several processes the first one writes.

    Args:
        folder: the run directory; `metrics.jsonl` and TensorBoard's events go there.
        start_step: what a run that goes on starts from; lines of later steps, which will come again, are dropped.
        starting: seconds that have gone by before.

    Attributes:
        spent: where the time goes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start_step: int,
        course: Course,
        screen: Screen,
        starting: float = 0.0,
    ) -> None:
        self._screen, self._course = screen, course
        self._step, self._figures = start_step, ""
        self._training = doing("training")
        self._folder, self._pictures = folder, folder / "pictures"
        self._sent: dict[str, int] = {}
        self._lines: Lines | None = None
        self._events: list[Events] = []
        if jax.process_index() == 0:
            self._lines = Lines(folder / "metrics.jsonl", partial(_until, start_step))
            self._events.append(TensorBoard(folder / "tensorboard", start_step))
            if (tracker := open_tracker(course.tracker, folder, course.settings, screen.say)) is not None:
                self._events.append(tracker)
        self._waited, self._since, self._images = 0.0, time.perf_counter(), 0
        self._durations, self._stepped = list[float](), self._since
        self.spent = TimeSpent(starting)
        self._within = 0

    def __enter__(self) -> Self:
        self._training.__enter__()
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._training.__exit__(kind, error, traceback)
        if self._lines is not None:
            self._lines.close()
            write_whole(self._folder / "time.json", json.dumps(dict(self.spent.shares())).encode())
            for events in self._events:
                events.close()

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations that have been written already: `step` and the metrics of each; on the first process."""
        return [line for line in map(json.loads, self._lines or ()) if line["split"] == "validation"]

    @contextmanager
    def doing(self, what: str) -> Iterator[Counted]:
        """An activity, such as compiling, whose time does not count in images per second; one may be within another."""
        began, since, stepped = time.perf_counter(), self._since, self._stepped
        self._within += 1
        try:
            with doing(what) as counted:
                yield counted
        finally:
            self._within -= 1
            seconds = time.perf_counter() - began
            self._since, self._stepped = since + seconds, stepped + seconds  # what was counted within is counted here
            if not self._within:
                self.spent.activity(what, seconds)

    def _show(self) -> None:
        epoch = self._epoch(max(self._step, 1))
        self._screen.progress(f"training epoch {epoch}, steps", self._step, self._course.total_steps, self._figures)

    def _epoch(self, step: int) -> int:
        """The epoch, from 1, that a step belongs to."""
        return -(-step // self._course.steps_per_epoch)

    def advance(self, step: int, images: int, waited: float) -> None:
        """Counts one step, the `step`-th: `images` in it, `waited` seconds until its data were there."""
        sign_of_life()
        now = time.perf_counter()
        self._durations.append(now - self._stepped)
        self._stepped = now
        self._images += images
        self.spent.add(INPUT, waited)
        self._waited += waited
        self._step = step
        self._show()

    def speed(self) -> dict[str, float]:
        """The speed since the last call, the median time of a step, waiting for its data included, the share of the
        time that training has waited for data, and the share of all time since the start that went into steps. Of
        several processes the share of the one that has waited longest, too, and which one it is, as far as they have
        said so by now: nobody waits for another to say it. A step takes all of them the same time."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        found = {
            "images_per_second": self._images / seconds,
            "step_seconds": statistics.median(self._durations) if self._durations else 0.0,
            "data_wait": self._waited / seconds,
            "goodput": self.spent.shares()["steps"],
            "peak_memory": float(peak_bytes()),
        }
        if jax.process_count() > 1:
            say("data wait", str(found["data_wait"]))
            waits = {index: float(text) for index, text in said_last("data wait").items()}
            longest = max(waits, key=waits.__getitem__)
            found |= {"data_wait_most": waits[longest], "data_wait_process": longest}
        self._waited, self._since, self._images = 0.0, time.perf_counter(), 0
        self._durations.clear()
        return found

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of the training steps up to `step`, `speed` among them."""
        self._write(step, "train", metrics)
        self._figures = (
            f"loss {metrics['loss']:.4f}  rate {metrics['learning_rate']:.2g}  "
            f"{metrics['images_per_second']:.1f} images/s  {metrics['data_wait']:.0%} waiting for data"
        )
        if "data_wait_most" in metrics:
            self._figures += f" (process {metrics['data_wait_process']}: {metrics['data_wait_most']:.0%})"
        self._show()
        if not self._screen.console.is_terminal:
            self._screen.say(f"epoch {self._epoch(step)}  step {step}/{self._course.total_steps}  {self._figures}")

    def evaluation(self, step: int, metrics: Mapping[str, float], best: bool, remark: str = "") -> None:
        """Logs the metrics of an evaluation and prints them, and a remark, as lines that stay."""
        self._write(step, "validation", metrics)
        # Figures of single classes are many; they are in the files.
        text = "  ".join(f"{name} {metrics[name]:.4f}" for name in whole(metrics))
        self._screen.say(f"epoch {self._epoch(step)}  step {step}  validation: {text}{'  (best)' if best else ''}")
        if remark:
            self._screen.say(remark)

    def draw(self, score: str = "loss", greater: bool = False) -> None:
        """Draws the learning curves anew, with the score of the evaluations that chooses the best model; pictures that
        have changed since the last time go to TensorBoard and to the tracker."""
        if self._lines is None or not self._course.pictures:
            return
        from jaxft.reporting.learning_curves import draw_learning_curves  # matplotlib takes a second to import

        with self.doing("drawing"):
            draw_learning_curves(
                history_of(list(map(json.loads, self._lines))),
                score,
                self._pictures / "learning_curves.png",
                greater=greater,
                steps_per_epoch=self._course.steps_per_epoch,
                phases=self._course.phases,
            )
            self._send_pictures()
            self.flush()

    def _send_pictures(self) -> None:
        for file in sorted(self._pictures.glob("*.png")):
            content = file.read_bytes()
            if self._sent.get(file.stem) != zlib.crc32(content):
                self._sent[file.stem] = zlib.crc32(content)
                image = Image.open(BytesIO(content)).convert("RGB")
                for events in self._events:
                    events.picture(file.stem, image, self._step)

    def histograms(self, step: int, found: Mapping[str, Histogram]) -> None:
        """Hands on how numbers are distributed after a step, by what they are."""
        for events in self._events:
            for name, histogram in found.items():
                events.histogram(name, histogram, step)

    def flush(self) -> None:
        """Returns when all that was reported can be read by others."""
        if self._lines is not None:
            self._lines.flush()

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        self._screen.say(line)

    def _write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        if self._lines is None:
            return
        entry: dict[str, Any] = {"step": step, "epoch": self._epoch(step), "split": split, **metrics}
        self._lines.add(json.dumps(entry))
        for events in self._events:
            events.scalars(split, metrics, step)


def _until(step: int, line: str) -> bool:
    """Whether a line of metrics is whole and of a step up to this one."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError):
        return False  # a kill cut it in two
