"""Ctrl-C and SIGTERM during a run: the first asks it to end in order, the second ends it at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")
_POLL = 0.1  # seconds between two looks for a signal while something compiles


class Interrupted(Exception):
    """A signal came while something compiled or was evaluated; nothing changed, and all of it can be done later."""


class Stop:
    """Whether a signal has asked the run to end: `number` is the signal's, or None.

    Attributes:
        interrupts: whether it ends what is under way between two steps, such as compiling; of several processes none
            may do that alone.
        raises: whether the first signal raises `Interrupted` where the program is.
    """

    def __init__(self, *, interrupts: bool = True) -> None:
        self.number: int | None = None
        self.interrupts = interrupts
        self.raises = False

    def __bool__(self) -> bool:
        return self.number is not None


_current = Stop()  # of the run in the main thread; one that nobody sets where there is none


@contextmanager
def stop_signals(*, interrupts: bool = True) -> Iterator[Stop]:
    """Receives the first Ctrl-C or SIGTERM; the second one interrupts at once.

    Handlers belong to the main thread of a program. In another thread, and in a notebook, whose own handler ends a
    cell, nothing is received.

    Args:
        interrupts: see `Stop`.
    """
    global _current
    stop = Stop(interrupts=interrupts)
    if threading.current_thread() is not threading.main_thread() or "ipykernel" in sys.modules:
        yield stop
        return

    def receive(number: int, _: object) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.number = number
        if stop.raises:
            raise Interrupted

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    outer, _current = _current, stop
    try:
        yield stop
    finally:
        _current = outer
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_if_stopped() -> None:
    """Ends what can be made up later.

    Raises:
        Interrupted: a signal was received.
    """
    if _current and _current.interrupts:
        raise Interrupted


@contextmanager
def at_once() -> Iterator[None]:
    """Within, Python code that takes long and whose result is not needed when a signal comes, such as tracing.

    Raises:
        Interrupted: a signal was received.
    """
    raise_if_stopped()
    stop = _current
    stop.raises = stop.interrupts and threading.current_thread() is threading.main_thread()
    try:
        yield
    finally:
        stop.raises = False


class _Work(Generic[T]):
    """What a thread does, and what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.ended = False
        self.value: T | None = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self.value = self._work()
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True


_begun: list[_Work] = []  # what `interruptible` waits for, or no longer waits for


def interruptible(work: Callable[[], T]) -> T:
    """Does what takes long outside Python, such as compiling, so that a signal ends the wait for it.

    Raises:
        Interrupted: a signal was received; the work goes on in a thread that ends with the process (see `leave`).
        KeyboardInterrupt: Ctrl-C, where nothing receives signals; the same.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    stop, begun = _current, _Work(work)
    _begun.append(begun)
    thread = threading.Thread(target=begun, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
        if stop and stop.interrupts and thread.is_alive():
            raise Interrupted
    _begun.remove(begun)
    if begun.error is not None:
        raise begun.error
    return begun.value  # type: ignore[return-value]


def leave(code: int) -> NoReturn:
    """Ends the process, even where a compilation that nobody waits for is under way.

    Python would take its libraries down beneath it, and the process crash or hang.
    """
    exec("")  # Python 3.11 ends by SIGINT, whatever the code, where Ctrl-C came within an `exec`, until the next one
    if any(not work.ended for work in _begun):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
