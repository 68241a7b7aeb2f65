"""What a run was when it began, as plain data in its directory: machine, weights, phases and rates."""

import dataclasses
from typing import Any

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.reporting.details import PLAIN, validated


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class PhaseFacts:
    """A phase: the step before its first one and its last one, how many numbers it trains, and for each group of
    parameters its rate at `steps`."""

    first: int
    last: int
    trained: int
    groups: dict[str, tuple[float, ...]]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, config=PLAIN)
class Beginning:
    """What a run was when it began.

    Attributes:
        facts: names and values for a person: versions, devices, commit, numbers of the model.
        weights: what became of a checkpoint's tensors, a sentence a line.
        new: our leaves that no checkpoint has filled.
        data: what was said of the data.
        phases: in order.
        changed: the settings that were changed in what the configuration was made from: what they were, and are.
    """

    facts: dict[str, str]
    weights: tuple[str, ...]
    new: tuple[str, ...]
    data: tuple[str, ...]
    steps_per_epoch: int
    phases: tuple[PhaseFacts, ...]
    changed: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)


ADAPTER = pydantic.TypeAdapter(Beginning)


def to_json(beginning: Beginning) -> bytes:
    """As JSON."""
    return ADAPTER.dump_json(beginning)


def from_json(content: bytes, where: str) -> Beginning:
    """The inverse of `to_json`.

    Raises:
        UserError: `content`, from the file `where`, is not that.
    """
    return validated(ADAPTER, content, f"{where} does not say how a run began, or is of another version.")
