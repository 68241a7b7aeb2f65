"""How a loader of batches is timed."""

import time
from collections.abc import Iterable
from typing import Any

WARM_UP = 10


def rates(loader: Iterable[Any], photos: int, batches: int) -> dict[str, float]:
    """Draws and drops `batches` batches of so many photos, after some that fill the queues.

    Returns:
        Photos a second of wall clock, `wall`, and of processor time of this process, `cpu` (that of worker processes is
        not in it).
    """
    endless = iter(loader)
    for _ in range(WARM_UP):
        next(endless)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(endless)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": photos * batches / wall, "cpu": photos * batches / cpu}
