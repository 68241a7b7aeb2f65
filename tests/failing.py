"""`python -m tests.failing ARGUMENTS` is `python -m tests.small`, of which one process meets trouble.

FAILS names the process, the step and the kind: `1:2:error` a UserError, `bug` an error of the program, `memory` what
XLA says of a full device, `killed` SIGKILL, `hang` a process that goes nowhere; `slow` makes every step from then on
take a seventh of a second, `slower` a second.
"""

import os
import signal
import time
from typing import Any

import jax

from jaxft import train
from jaxft.cli import run_command
from jaxft.errors import UserError
from jaxft.reporting.progress import Reporter
from tests import small  # noqa: F401  # the small network

process, step_of_trouble, kind = os.environ["FAILS"].split(":")
advance = Reporter.advance
PAUSES = {"slow": 0.15, "slower": 1.0}  # seconds


def trouble(reporter: Reporter, step: int, *rest: Any) -> None:
    if step >= int(step_of_trouble):
        time.sleep(PAUSES.get(kind, 0))
    if step == int(step_of_trouble) and jax.process_index() == int(process):
        match kind:
            case "error":
                raise UserError("The photo cannot be read.")
            case "bug":
                raise KeyError("a bug")
            case "memory":
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nMore.")
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(600)
    advance(reporter, step, *rest)


if __name__ == "__main__":
    Reporter.advance = trouble  # type: ignore[method-assign]
    run_command(train.main)
