"""Work on many files at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from jaxft.activity import doing

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_all_cores(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """What `function` gives for each item, in their order, by a thread a core.

    An exception, such as Ctrl-C's, waits for what is under way and cancels the rest.

    Args:
        what: the activity, as it is shown: `checking 1,000 photos`.
    """
    pool, results = ThreadPoolExecutor(), list[Result]()
    try:
        with doing(what) as counted:
            for result in pool.map(function, items):
                results.append(result)
                counted(len(results), len(items))
    finally:
        pool.shutdown(cancel_futures=True)
    return results
