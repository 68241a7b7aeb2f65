"""Where a run that was stopped goes on."""

from typing import NamedTuple

from jaxft.run import RunDirectory
from jaxft.training.checkpoint import NOT_FINITE, Checkpoints, Which


class Saved(NamedTuple):
    """Where a run goes on: after so many steps, in a phase, from 0; and whether the numbers of the next were finite."""

    step: int
    phase: int
    all_finite: bool


def last_checkpoint(run: RunDirectory) -> Saved | None:
    """Where a run goes on; None where it ended before its first checkpoint."""
    if not run.checkpoints.is_dir():
        return None
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        found: list[Which] = [which for which in ("last", "best") if checkpoints.step(which) is not None]
        if not found:
            return None
        for which in ("last", *found[1:]):
            checkpoints.check(which)
        step = checkpoints.step()
        assert step is not None
        mark = run.checkpoints / NOT_FINITE
        stopped_there = mark.is_file() and mark.read_text().strip() == str(step)
        return Saved(step, int(checkpoints.metadata()["phase"]), not stopped_there)
