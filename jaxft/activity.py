"""What a program is doing at the moment: said where it is done, shown by whoever has a screen.

    with doing("reading 1,000 photos") as counted:
        for number, photo in enumerate(photos, 1):
            ...
            counted(number, len(photos))

Nothing is shown without a display, such as `jaxft.reporting.progress.Screen`.
"""

import time
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


_innermost: list[str] = []  # the activities that have begun and not ended, for whoever watches from another thread
_sign = time.monotonic()  # when something was last begun, counted or ended


def sign_of_life() -> None:
    """Says that the program gets on."""
    global _sign
    _sign = time.monotonic()


def last_sign() -> tuple[float, str]:
    """How many seconds ago the program last got on, and what it is doing; for another thread."""
    return time.monotonic() - _sign, (_innermost[-1:] or ["starting"])[0]


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
    sign_of_life()
    _innermost.append(what)
    if display is not None:
        display.begin(what)

    def count(done: int, total: int) -> None:
        sign_of_life()
        if display is not None:
            display.count(done, total)

    try:
        yield count
    except KeyboardInterrupt as interrupt:
        if not interrupted_while(interrupt):
            interrupt.add_note(what)
        raise
    finally:
        _innermost.remove(what)
        sign_of_life()
        if display is not None:
            display.end()


def interrupted_while(interrupt: KeyboardInterrupt) -> str:
    """The innermost activity that was interrupted; empty where there was none."""
    return next(iter(getattr(interrupt, "__notes__", ())), "")


def ignored(done: int, total: int) -> None:
    """Counts nothing."""
