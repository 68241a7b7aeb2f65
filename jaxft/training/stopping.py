"""Ctrl-C and SIGTERM during a run: the first asks it to end in order, the second ends it at once.

Of several processes none acts on a signal alone: SIGTERM is a notice that JAX's coordination service gives to all, and
they agree on the step after which they stop.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")
_POLL = 0.1  # seconds between two looks for a signal while something compiles
_PATIENT = 10  # the `nice` of a thread that makes way for others


class Interrupted(Exception):
    """A signal came while something compiled or was evaluated; nothing changed, and all of it can be done later."""


class Stop:
    """Whether a signal has asked the run to end: `number` is the signal's, or None.

    Args:
        several: whether the run has several processes, which agree to end.

    Attributes:
        interrupts: whether it ends what is under way between two steps, such as compiling; of several processes none
            may do that alone.
        raises: whether the first signal raises `Interrupted` where the program is.
        asked: whether the program itself has asked a single process to end, at the next place for it.
    """

    def __init__(self, *, several: bool = False) -> None:
        self.number: int | None = None
        self.interrupts = not several
        self.raises = self.asked = False
        self._several, self._questions = several, 0

    def __bool__(self) -> bool:
        return self.number is not None

    def ask(self) -> None:
        """Asks the run to end, as a callback may; several processes agree on where."""
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.asked = True

    def agree(self) -> bool:
        """Asks whether all processes end here. Each asks at the same places as the others: after every step, and before
        every batch of an evaluation. It costs no message."""
        if self._several and self.number is None:
            from jax.experimental.multihost_utils import reached_preemption_sync_point

            self._questions += 1
            if reached_preemption_sync_point(self._questions):
                self.number = signal.SIGTERM
        return bool(self)


_current = Stop()  # of the run in the main thread; one that nobody sets where there is none


@contextmanager
def stop_signals(*, several: bool = False) -> Iterator[Stop]:
    """Receives the first Ctrl-C or SIGTERM; the second one interrupts at once.

    Handlers belong to the main thread of a program. In another thread, and in a notebook, whose own handler ends a
    cell, nothing is received.

    Args:
        several: see `Stop`; SIGTERM is received by JAX then, and the first Ctrl-C counts as one.
    """
    global _current
    stop = Stop(several=several)
    if threading.current_thread() is not threading.main_thread() or "ipykernel" in sys.modules:
        yield stop
        return
    asked: list[int] = []

    def receive(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        if several:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        stop.number = number
        if stop.raises:
            raise Interrupted

    numbers = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, receive) for number in numbers}
    outer, _current = _current, stop
    try:
        yield stop
    finally:
        _current = outer
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_if_agreed() -> None:
    """Before a batch of an evaluation, in every process: ends it where all processes stop here.

    Raises:
        Interrupted: they do; what is evaluated can be made up later.
    """
    if not _current.interrupts and _current.agree():
        raise Interrupted


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
        try:
            if self._patient and sys.platform == "linux":  # where a thread has a priority of its own
                with suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PATIENT)
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
        if "jax" in sys.modules:
            import jax

            jax.distributed.shutdown()  # together with the other processes of a run, if there are any
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
