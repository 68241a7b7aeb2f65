"""Where the time of a run goes: its share in training steps, and in everything else by cause."""

import time
from collections.abc import Mapping

CAUSES = {
    "compiling": "compilation",
    "evaluating": "evaluation",
    "drawing": "pictures",
    "saving": "checkpoints",
}
"""By the first word of an activity."""
INPUT, OTHER, START = "input", "other", "start"


class TimeSpent:
    """Seconds by cause since the start of a process; what no cause has taken was spent in steps (the goodput).

    Args:
        starting: seconds that went by before the first step.
    """

    def __init__(self, starting: float) -> None:
        self._began = time.perf_counter() - starting
        self._seconds = {START: starting}

    def add(self, cause: str, seconds: float) -> None:
        """Some seconds went into a cause."""
        self._seconds[cause] = self._seconds.get(cause, 0.0) + seconds

    def activity(self, what: str, seconds: float) -> None:
        """Some seconds went into an activity, such as `evaluating epoch 3`."""
        self.add(CAUSES.get(what.split()[0], OTHER), seconds)

    def shares(self) -> Mapping[str, float]:
        """The share of the time, by cause, `steps` first; together 1."""
        whole = max(time.perf_counter() - self._began, 1e-9)
        causes = {cause: seconds / whole for cause, seconds in self._seconds.items()}
        return {"steps": max(1 - sum(causes.values()), 0.0), **dict(sorted(causes.items(), key=lambda item: -item[1]))}

    def sentence(self) -> str:
        """The shares of at least half a percent, in a line."""
        shown = [f"{share:.0%} {cause}" for cause, share in self.shares().items() if share >= 0.005 or cause == "steps"]
        return f"Time: {', '.join(shown)}."
