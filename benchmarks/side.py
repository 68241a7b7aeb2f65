"""The process of one side: prepares its program, then waits for the word and times itself.

    python -m benchmarks.side

`benchmarks.sides` starts it and says what it is to do: a line of JSON first, then a line a run. Answers are lines of
JSON. Whatever libraries print goes to stderr.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def serve() -> None:
    """Answers until its standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**facts: object) -> None:
        answers.write(json.dumps(facts) + "\n")
        answers.flush()

    try:
        program = prepared(json.loads(sys.stdin.readline()))
        answer(device=device())
        idle_since = time.process_time()
        while sys.stdin.readline():
            idle = time.process_time() - idle_since
            answer(**timed(program), idle_cpu=idle)
            idle_since = time.process_time()
    except Exception as error:
        answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        raise


def prepared(request: Mapping[str, Any]) -> Callable[[], object]:
    """The program of a request, after its first run, in which it compiles."""
    if request["as_command"]:
        as_command()
    module, _, name = request["function"].partition(":")
    program: Callable[[], object] = getattr(import_module(module), name)(**request["options"])
    program()
    forget_peak()
    return program


def as_command() -> None:
    """Sets this process up as jaxft's commands set up theirs; what must be in the environment already is there."""


def timed(program: Callable[[], object]) -> dict[str, Any]:
    """One run: seconds of wall clock and of processor, the highest memory until now, and what the program says."""
    cpu, start = time.process_time(), time.perf_counter()
    value = program()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "peak_bytes": peak_bytes(), "value": value}


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
