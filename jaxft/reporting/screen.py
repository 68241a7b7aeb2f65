"""What a person sees of what a program is doing: a live line on a terminal, elsewhere plain lines."""

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from jaxft.activity import shown_by

QUIET = 30.0  # seconds without a line after which a program without a terminal says what it is doing


@dataclass
class _Activity:
    what: str
    task: TaskID | None
    began: float = field(default_factory=time.monotonic)
    count: str = ""


class _Seconds(ProgressColumn):
    """The time that is left, or that has gone by where that is not known."""

    max_refresh = 0.5
    _left, _gone = TimeRemainingColumn(), TimeElapsedColumn()

    def render(self, task: Task) -> Text:
        return self._gone.render(task) if task.total is None else self._left.render(task)


class Screen:
    """Shows the activities of a program (see `jaxft.activity`), and prints lines that stay.

    On a terminal the innermost activity has a live line, and so has each around it that counts. Elsewhere a plain line
    says what is being done whenever nothing was printed for `QUIET` seconds, even while all else waits for a
    compilation.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[line]}", markup=False),
            _Seconds(),
            console=console,
            transient=True,
        )
        self._activities: list[_Activity] = []
        self._printed = time.monotonic()
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._say_what_lasts, daemon=True)
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        self._entered.enter_context(shown_by(self))
        if self.console.is_terminal:
            self._live.start()
        elif not self.console.quiet:
            self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._watch.is_alive():
            self._watch.join()
        if self.console.is_terminal:
            self._live.stop()
        self._entered.close()

    def begin(self, what: str) -> None:
        """An activity begins, within those that have begun and not ended."""
        self._show_innermost(False)
        task = self._live.add_task(what, total=None, line="") if self.console.is_terminal else None
        self._activities.append(_Activity(what, task))

    def count(self, done: int, total: int) -> None:
        """So much of the innermost activity is done."""
        self.progress(self._activities[-1].what, done, total)

    def progress(self, what: str, done: int, total: int, detail: str = "") -> None:
        """Renames the innermost activity, and says how much of it is done and something beside the count."""
        activity = self._activities[-1]
        activity.what, activity.count = what, f"{done:,} of {total:,}"
        if activity.task is not None:
            line = f"{activity.count}  {detail}".rstrip()
            self._live.update(activity.task, description=what, completed=done, total=total, line=line)

    def end(self) -> None:
        """The innermost activity ends."""
        activity = self._activities.pop()
        if activity.task is not None:
            self._live.remove_task(activity.task)
        self._show_innermost(True)

    def _show_innermost(self, shown: bool) -> None:
        """Shows or hides the live line of the innermost activity, unless it has a count to show, such as training."""
        for activity in self._activities[-1:]:
            if activity.task is not None and not activity.count:
                self._live.update(activity.task, visible=shown)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self._printed = time.monotonic()
        self.console.print(text, highlight=False, markup=False)

    def _say_what_lasts(self) -> None:
        while not self._ended.wait(min(QUIET / 4, 1.0)):
            now, innermost = time.monotonic(), self._activities[-1:]
            if now - self._printed >= QUIET and innermost:
                activity = innermost[0]
                count = f": {activity.count}" if activity.count else ""
                self.say(f"still {activity.what}{count} ({now - activity.began:,.0f} s)")
