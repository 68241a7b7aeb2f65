"""MMEngine's schedulers of the learning rate as fields: its names, arguments and defaults. What they do to a rate is in
`jaxft.training.scheduled`."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT

Count = int | float
"""Of epochs or iterations; a whole number, unless it is converted from epochs to iterations."""
Factor = Annotated[float, pydantic.Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Span:
    """When a scheduler is at work, which all of them have in common."""

    begin: Annotated[Count, pydantic.Field(ge=0)] = 0
    """The first epoch or iteration of the phase in which it is at work, from 0."""
    end: Count | None = None
    """The one before which it ends; None for the end of the phase."""
    by_epoch: bool = True
    """Whether it counts, and acts, after each epoch, or after each iteration: a step, or a part of one with
    `micro_batches`."""
    convert_to_iter_based: bool = False
    """Give its numbers in epochs, but let it act after each iteration."""

    @pydantic.model_validator(mode="after")
    def _check_span(self) -> Self:
        if self.end is not None and self.end <= self.begin:
            raise ValueError(f"end must be larger than begin, but end is {self.end} and begin is {self.begin}")
        if self.convert_to_iter_based and not self.by_epoch:
            raise ValueError("convert_to_iter_based converts what is counted by epoch, but by_epoch is false")
        if not self.convert_to_iter_based and any(int(at) != at for at in (self.begin, self.end or 0)):
            raise ValueError("begin and end must be whole numbers where convert_to_iter_based is false")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LinearLR(Span):
    """Multiplies the rate with a factor that moves in equal steps from begin to the last iteration before end."""

    type: Literal["LinearLR"] = "LinearLR"
    """MMEngine's name."""
    start_factor: Factor = 1 / 3
    """The factor at begin."""
    end_factor: Annotated[float, pydantic.Field(ge=0, le=1)] = 1.0
    """The factor just before end."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ConstantLR(Span):
    """Multiplies the rate with a factor until the last iteration before end."""

    type: Literal["ConstantLR"] = "ConstantLR"
    """MMEngine's name."""
    factor: Factor = 1 / 3
    """The factor."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MultiStepLR(Span):
    """Multiplies the rate with gamma at each milestone."""

    type: Literal["MultiStepLR"] = "MultiStepLR"
    """MMEngine's name."""
    milestones: tuple[int, ...]
    """Counted from begin; one that is named twice counts twice."""
    gamma: float = 0.1
    """The factor."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StepLR(Span):
    """Multiplies the rate with gamma again and again."""

    type: Literal["StepLR"] = "StepLR"
    """MMEngine's name."""
    step_size: pydantic.PositiveInt
    """After so many each time."""
    gamma: float = 0.1
    """The factor."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExponentialLR(Span):
    """Multiplies the rate with gamma each time."""

    type: Literal["ExponentialLR"] = "ExponentialLR"
    """MMEngine's name."""
    gamma: float
    """The factor."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CosineAnnealingLR(Span):
    """Moves the rate to its minimum along half a cosine, and back where it goes on."""

    type: Literal["CosineAnnealingLR"] = "CosineAnnealingLR"
    """MMEngine's name."""
    T_max: pydantic.NonNegativeInt | None = None
    """Length of half a period; None or 0 for all from begin to end."""
    eta_min: float | None = None
    """The minimum, as it stands, whatever the group's rate; 0 where neither is given."""
    eta_min_ratio: float | None = None
    """The minimum as a share of the group's rate, in the place of eta_min."""

    @pydantic.model_validator(mode="after")
    def _check_minimum(self) -> Self:
        if self.eta_min is not None and self.eta_min_ratio is not None:
            raise ValueError("eta_min and eta_min_ratio both give the minimum; leave one of them out")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PolyLR(Span):
    """Moves the rate to its minimum along a power of the way that is left."""

    type: Literal["PolyLR"] = "PolyLR"
    """MMEngine's name."""
    eta_min: float = 0.0
    """The minimum, as it stands, whatever the group's rate."""
    power: float = 1.0
    """The power."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OneCycleLR(Span):
    """Moves the rate up to eta_max and down to almost nothing, whatever the group's rate."""

    type: Literal["OneCycleLR"] = "OneCycleLR"
    """MMEngine's name."""
    eta_max: pydantic.PositiveFloat
    """The highest rate, as it stands, of every group."""
    total_steps: pydantic.PositiveInt | None = None
    """Length of the cycle; None for all from begin to end."""
    pct_start: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.3
    """The share of the cycle in which the rate rises."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """How it moves."""
    div_factor: pydantic.PositiveFloat = 25.0
    """It starts at eta_max / div_factor."""
    final_div_factor: pydantic.PositiveFloat = 1e4
    """It ends at the first rate / final_div_factor."""
    three_phase: bool = False
    """Fall to the first rate as fast as it has risen, and only then to the last one."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CosineRestartLR(Span):
    """Moves the rate to its minimum along half a cosine, several times."""

    type: Literal["CosineRestartLR"] = "CosineRestartLR"
    """MMEngine's name."""
    periods: tuple[pydantic.PositiveInt, ...]
    """Length of each time."""
    restart_weights: tuple[float, ...] = (1.0,)
    """The share of the group's rate that each starts from."""
    eta_min: float | None = None
    """The minimum, as it stands, whatever the group's rate."""
    eta_min_ratio: float | None = None
    """The minimum as a share of the group's rate; one of the two must be given."""

    @pydantic.model_validator(mode="after")
    def _check_periods(self) -> Self:
        if (self.eta_min is None) == (self.eta_min_ratio is None):
            raise ValueError("one of eta_min and eta_min_ratio must be given, and not both")
        if len(self.periods) != len(self.restart_weights):
            raise ValueError(
                f"periods and restart_weights must be equally many, but there are {len(self.periods)} and "
                f"{len(self.restart_weights)}"
            )
        return self


Scheduler = Annotated[
    LinearLR
    | ConstantLR
    | MultiStepLR
    | StepLR
    | ExponentialLR
    | CosineAnnealingLR
    | PolyLR
    | OneCycleLR
    | CosineRestartLR,
    pydantic.Field(discriminator="type"),
]
"""One of MMEngine's schedulers; `pydantic.TypeAdapter(Scheduler)` reads a dict of its arguments with its `type`."""
