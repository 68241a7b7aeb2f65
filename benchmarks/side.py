"""The process of one side: prepares its program, then waits for the word and times itself.

    python -m benchmarks.side

`benchmarks.sides` starts it and says what it is to do: a line of JSON first, then a line a run. Answers are lines of
JSON. Whatever libraries print goes to stderr.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from jaxft.memory import keep_memory

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TURN = 0.2  # seconds


def serve() -> None:
    """Answers until its standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    keep_memory()  # where it was started with our settings
    os.environ.pop("GLIBC_TUNABLES", None)  # read before the program began; worker processes do not inherit it

    def answer(**facts: object) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    try:
        program = prepared(json.loads(sys.stdin.readline()))
        answer(device=device())
        runs = settled(program)
        answer(runs=runs)
        idle_since = time.process_time()
        while sys.stdin.readline():
            idle = time.process_time() - idle_since
            answer(**timed(program, runs), idle_cpu=idle)
            idle_since = time.process_time()
    except Exception as error:
        answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        raise


def prepared(request: Mapping[str, Any]) -> Callable[[], object]:
    """The program of a request, after its first run, in which it compiles."""
    module, _, name = request["function"].partition(":")
    program: Callable[[], object] = getattr(import_module(module), name)(**request["options"])
    program()
    return program


def settled(program: Callable[[], object]) -> int:
    """Runs once more, after which all has its place, and says how many runs make a turn that is long enough to time."""
    forget_peak()
    start = time.perf_counter()
    program()
    return max(1, math.ceil(TURN / (time.perf_counter() - start)))


def timed(program: Callable[[], object], runs: int) -> dict[str, Any]:
    """A turn: seconds a run of wall clock and of processor, the highest memory until now, what the last run says."""
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(runs):
        value = program()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds / runs, "cpu": cpu / runs, "peak_bytes": peak_bytes(), "value": value}


def forget_peak() -> None:
    """Makes the highest memory count from here, where the system can; compiling is not part of a step."""
    with suppress(OSError):
        RESET.write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """The most memory that this process held: of the accelerator if it uses one, else resident memory."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    if jax is not None and jax.default_backend() != "cpu":
        return int((jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def device() -> str:
    """What the program runs on, in its library's words."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return str(jax.local_devices()[0].device_kind) if jax is not None else "cpu"


if __name__ == "__main__":
    serve()
