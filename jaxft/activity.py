"""What a program is doing at the moment: said where it is done, shown by whoever has a screen.

    with doing("reading 1,000 photos") as counted:
        for number, photo in enumerate(photos, 1):
            ...
            counted(number, len(photos))

Nothing is shown without a display, such as `jaxft.reporting.progress.Screen`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

Counted = Callable[[int, int], None]
"""Is told how much of an activity is done, and how much there is to do."""


class Display(Protocol):
    """Shows activities, the innermost of those that are under way."""

    def begin(self, what: str) -> None:
        """An activity begins, within those that have begun and not ended."""

    def count(self, done: int, total: int) -> None:
        """So much of the innermost activity is done."""

    def end(self) -> None:
        """The innermost activity ends."""


_display: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def shown_by(display: Display) -> Iterator[None]:
    """Shows what is done within on a display."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


def is_shown() -> bool:
    """Whether there is a display."""
    return _display.get() is not None


@contextmanager
def doing(what: str) -> Iterator[Counted]:
    """Says what is done within, such as `compiling the training step`; it is noted on a KeyboardInterrupt, too."""
    display = _display.get()
    if display is not None:
        display.begin(what)
    try:
        yield display.count if display is not None else ignored
    except KeyboardInterrupt as interrupt:
        if not interrupted_while(interrupt):
            interrupt.add_note(what)
        raise
    finally:
        if display is not None:
            display.end()


def interrupted_while(interrupt: KeyboardInterrupt) -> str:
    """The innermost activity that was interrupted; empty where there was none."""
    return next(iter(getattr(interrupt, "__notes__", ())), "")


def ignored(done: int, total: int) -> None:
    """Counts nothing."""
