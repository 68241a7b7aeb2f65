"""How benchmarks time two programs against each other on a machine that may be busy with other things."""

import statistics
import time
from collections.abc import Callable


def interleaved(programs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The median seconds of each program, run in turn (A B A B ...) after one warm-up each.

    A program returns when its work is done, not when it is queued.
    """
    for program in programs.values():
        program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            time.sleep(0.5)  # threads of the program before go on spinning for a while
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
