"""How a run uses its devices, and what is watched while it does."""

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Hardware:
    """How the devices are used and watched."""

    fsdp: int = pydantic.Field(default=1, ge=0)
    """Devices that hold parameters, optimizer state and averages together; 1 copies them to each, 0 takes all."""
    rematerialize: bool = False
    """Keep the input of each block of the model, and compute what lies within once more in the backward pass: less
    memory, about a third more time."""
    hang_after: float = pydantic.Field(default=1800.0, gt=0)
    """Seconds without any sign of life after which a process counts as hanging: its stacks are written to the run
    directory, and the run ends with exit code 75. Longer than the longest compilation."""
    profile: tuple[int, int] | None = None
    """The first and the last step, counted from 1, of a trace by jax.profiler in the run directory's `profile`."""

    def __post_init__(self) -> None:
        if self.profile is not None and not 1 <= self.profile[0] <= self.profile[1]:
            raise ValueError(f"profile is {self.profile}; it is the first and the last step of a trace, from 1")
