"""Ctrl-C and SIGTERM during a run: the first asks it to end in order, the second ends it at once."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")
_POLL = 0.1  # seconds between two looks for a signal while something compiles
_PATIENT = 10  # the `nice` of a thread that makes way for others


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


class Work(Generic[T]):
    """What takes long outside Python, such as compiling, begun in a thread of its own.

    The thread is a daemon: one that nobody waits for any more ends with the process (see `leave`).

    Args:
        patient: whether it makes way for what else computes, where the system knows such threads.
    """

    def __init__(self, work: Callable[[], T], *, patient: bool = False) -> None:
        self._work, self._patient = work, patient
        self._value: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._do, daemon=True)
        _begun.append(self)
        atexit.unregister(_wait_for_all)
        atexit.register(_wait_for_all)  # again, to come before what JAX has registered since
        self._thread.start()

    def _do(self) -> None:
        if self._patient and sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PATIENT)
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error
        finally:
            _begun.remove(self)

    def wait(self) -> None:
        """Waits for its end, whatever comes of it."""
        self._thread.join()

    def result(self) -> T:
        """Waits for what came of it; an error that ended it is raised here.

        Raises:
            Interrupted: a signal was received; the work goes on.
            KeyboardInterrupt: Ctrl-C, where nothing receives signals; the same.
        """
        stop = _current
        while self._thread.is_alive():
            self._thread.join(_POLL)
            if stop and stop.interrupts and self._thread.is_alive():
                raise Interrupted
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


_begun: list[Work] = []  # what has not ended


def _wait_for_all() -> None:
    """At the end of a process: Python would take its libraries down beneath what runs, and crash or hang."""
    for work in list(_begun):
        work.wait()


def interruptible(work: Callable[[], T]) -> T:
    """Does what takes long outside Python, such as compiling, so that a signal ends the wait for it.

    Raises:
        Interrupted: a signal was received; the work goes on in a thread that ends with the process (see `leave`).
        KeyboardInterrupt: Ctrl-C, where nothing receives signals; the same.
    """
    return work() if threading.current_thread() is not threading.main_thread() else Work(work).result()


def leave(code: int) -> NoReturn:
    """Ends the process at once, even where a compilation that nobody waits for is under way."""
    exec("")  # Python 3.11 ends by SIGINT, whatever the code, where Ctrl-C came within an `exec`, until the next one
    if _begun:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
