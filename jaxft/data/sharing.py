"""Work that the processes of a run share: each does a part, and all of them have the results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sharing:
    """Which process of how many this is, and how they tell each other: every process gives bytes, and gets those of all
    in the order of the processes."""

    index: int
    count: int
    exchange: Callable[[bytes], list[bytes]]

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that this process looks at."""
        return items[self.index :: self.count]

    def merged(self, parts: Sequence[Sequence[Item]]) -> list[Item]:
        """The results of all items in their order, from those of each process for its own."""
        total = sum(map(len, parts))
        return [parts[position % self.count][position // self.count] for position in range(total)]


ALONE = Sharing(0, 1, lambda own: [own])
_sharing: ContextVar[Sharing] = ContextVar("sharing", default=ALONE)


def sharing() -> Sharing:
    """How work is shared now; by default this process does it alone."""
    return _sharing.get()


@contextmanager
def shared(how: Sharing) -> Iterator[None]:
    """Within, all processes do the same work on the same items, each its share."""
    token = _sharing.set(how)
    try:
        yield
    finally:
        _sharing.reset(token)
