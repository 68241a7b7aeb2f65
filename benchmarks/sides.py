"""Programs that are timed, each in a process of its own with its own best settings, one running at a time.

A program is described by plain values, so that the process that compares them loads neither library.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from statistics import median
from types import TracebackType
from typing import Any, Literal, Self

from jaxft.memory import SWITCH, TUNABLES, VARIABLE

Torch = Literal["eager", "compile", "best"]
PAUSE = 0.5  # threads of a program that has just run go on spinning for a while


@dataclass(frozen=True)
class Program:
    """What a side runs.

    Attributes:
        function: `module:name` of a function that prepares. It returns what is timed: a function that returns when its
            work is done, not when it is queued; what it returns must be plain values, and is kept.
        options: what the preparing function is given; plain values.
        environment: variables of the process; None takes one away that this process has.
    """

    function: str
    options: Mapping[str, Any]
    environment: Mapping[str, str | None] = field(default_factory=dict)


def ours(function: str, /, **options: Any) -> Program:
    """A program of jaxft, with the settings of its commands."""
    defaults = {"TF_CPP_MIN_LOG_LEVEL": "3"} | ({} if os.environ.get(SWITCH) == "0" else {VARIABLE: TUNABLES})
    return Program(function, options, {name: os.environ.get(name, value) for name, value in defaults.items()})


def theirs(function: str, torch: Torch = "eager", /, **options: Any) -> dict[str, Program]:
    """Programs of PyTorch by their names, with its default allocator: eager, compiled, or both for the faster of them.

    The preparing function is told by an option `compiled`.
    """
    kinds = {"eager": (False,), "compile": (True,), "best": (False, True)}[torch]
    return {
        "compiled" if compiled else "eager": Program(function, {**options, "compiled": compiled}, {VARIABLE: None})
        for compiled in kinds
    }


@dataclass
class Timing:
    """What was measured of a program.

    Attributes:
        ready: seconds from the start of its process to the end of its first run: imports, first values, compiling.
        device: what it ran on.
        runs: in a turn; more than one where the program is short.
        seconds: a run, in each turn.
        cpu: seconds of processor time a run, of all threads of its process, in each turn.
        idle_cpu: seconds of processor time before each turn, while others ran.
        peak_bytes: the most memory it held from the second run on: of the accelerator, or resident memory.
        values: what each turn returned.
    """

    ready: float
    device: str
    runs: int = 1
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    idle_cpu: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    values: list[Any] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return median(self.seconds)


class SideError(RuntimeError):
    """A program could not be measured; the message is one sentence."""


class Side:
    """The process of one program. Used with `with`, which ends the process."""

    def __init__(self, name: str, program: Program, deadline: float | None = None) -> None:
        self.name, self._program, self._deadline = name, program, deadline

    def __enter__(self) -> Self:
        self._noise = tempfile.TemporaryFile()
        changes = self._program.environment
        environment = {key: value for key, value in (os.environ | changes).items() if value is not None}
        self._start = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.side"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            env=environment,
            bufsize=0,  # `select` does not see what Python has read ahead
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10 if kind is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._noise.close()

    def prepare(self) -> Timing:
        """Lets the program prepare, run once, and once more.

        Raises:
            SideError: it does not get that far.
        """
        request = json.dumps({"function": self._program.function, "options": self._program.options})
        device = self._ask(request)["device"]
        ready = time.monotonic() - self._start
        return Timing(ready, device, self._answer()["runs"])

    def run(self, timing: Timing) -> None:
        """Gives the program a turn, and notes what it measures.

        Raises:
            SideError: it fails.
        """
        answer = self._ask("run")
        timing.seconds.append(answer["seconds"])
        timing.cpu.append(answer["cpu"])
        timing.idle_cpu.append(answer["idle_cpu"])
        timing.values.append(answer["value"])
        timing.peak_bytes = answer["peak_bytes"]

    def _ask(self, line: str) -> dict[str, Any]:
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # where the process has ended; reading finds that
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        seconds = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if not select.select([stdout], [], [], seconds)[0]:
            raise SideError(f"{self.name}: out of time.")
        answer: dict[str, Any] = json.loads(stdout.readline() or "{}")
        if "error" in answer:
            raise SideError(f"{self.name}: {answer['error']}")
        if not answer:
            raise SideError(f"{self.name}: its process ended with code {self._process.wait()}{self._last_words()}.")
        return answer

    def _last_words(self) -> str:
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f" ({said[-1][:200]})" if said else ", saying nothing"


def interleaved(
    programs: Mapping[str, Program],
    rounds: int,
    *,
    deadline: float | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, Timing | SideError]:
    """Prepares programs one after the other, then runs them in turn (A B A B ...).

    Args:
        programs: by name.
        rounds: turns of each.
        deadline: of `time.monotonic`; a program that is not done then is an error.
        told: is given a line about what goes on, for people who wait.

    Returns:
        For each program what was measured, or why nothing was.
    """
    outcomes: dict[str, Timing | SideError] = {}
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, program in programs.items():
            told(f"{name} prepares")
            side = stack.enter_context(Side(name, program, deadline))
            try:
                outcomes[name] = side.prepare()
                sides[name] = side
            except SideError as error:
                outcomes[name] = error
        for number in range(rounds):
            for name, side in sides.items():
                timing = outcomes[name]
                if isinstance(timing, SideError):
                    continue
                told(f"{name} runs, {number + 1} of {rounds}")
                time.sleep(PAUSE)
                try:
                    side.run(timing)
                except SideError as error:
                    outcomes[name] = error
    return outcomes


def once(function: str, deadline: float | None = None, /, **options: Any) -> None:
    """Runs a program once in a process of its own, for what it leaves.

    Raises:
        SideError: it fails.
    """
    with Side(function, Program(function, options), deadline) as side:
        side.prepare()
