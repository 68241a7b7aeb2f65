"""Ctrl-C and SIGTERM during a run: the first asks it to end in order, the second ends it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """A signal asked the run to end; everything is saved."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives the first Ctrl-C or SIGTERM; the second one interrupts at once."""
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
