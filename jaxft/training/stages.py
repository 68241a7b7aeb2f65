"""The phases of a configuration laid out for a model: plain data, computed from shapes without a device."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
import optax

from jaxft.config import Config, Phase
from jaxft.config import Optimizer as OptimizerFields
from jaxft.errors import UserError
from jaxft.training.optim import (
    Numbers,
    ParameterGroup,
    ParameterGroups,
    optimizer_numbers,
    parameter_groups,
    transformation,
)
from jaxft.training.schedules import phase_steps, tabulated


@dataclass(frozen=True)
class Stage:
    """One phase of a run.

    Attributes:
        index: which of the phases, from 0.
        first, last: the step before its first one, and its last one, of the whole run.
        groups: which parameter gets what. Parameters of one group have been trained without a break since the same
            phase, so that whatever an optimizer counts is the same for all of them.
        batch_norm: what BatchNorm does where no rule says otherwise, `batch` or `running`.
        optimizer: the configuration's.
    """

    index: int
    first: int
    last: int
    groups: ParameterGroups
    batch_norm: str
    optimizer: OptimizerFields

    @cached_property
    def learning_rates(self) -> Mapping[str, np.ndarray]:
        """The rate of every trained group at each step of the phase, float64 `[steps]`."""
        return {group.label: tabulated(group.lr, self.last - self.first) for group in self.groups.trained_groups}

    def chain(self, numbers: Numbers) -> optax.GradientTransformation:
        """The optimizer of the phase with these numbers; see `numbers`."""
        return transformation(self.groups.labels, self.optimizer, numbers)

    @cached_property
    def fixed_numbers(self) -> Numbers:
        """What the optimizer multiplies with at every step: all but the learning rates."""
        return optimizer_numbers(self.groups, self.optimizer)

    def numbers(self, step: int) -> Numbers:
        """What the optimizer multiplies with in the step that follows `step` steps of the whole run."""
        rates = {label: float(values[step - self.first]) for label, values in self.learning_rates.items()}
        return self.fixed_numbers | {"learning_rate": rates}

    def highest_rate(self, step: int) -> float:
        """The highest learning rate of all groups in that step."""
        return max(float(values[step - self.first]) for values in self.learning_rates.values())


def lay_out(
    config: Config,
    shapes: Mapping[str, tuple[int, ...]],
    steps_per_epoch: int,
    depths: Mapping[str, int] = MappingProxyType({}),
) -> list[Stage]:
    """The stages of a run of a model whose parameters have these shapes, by dotted path; `depths` as of
    `parameter_groups`.

    Raises:
        UserError: the rules of a phase do not fit the model, or its length or its schedule contradicts itself.
    """
    stages: list[Stage] = []
    first, since = 0, dict[str, int]()
    for index, phase in enumerate(config.phases):
        if phase.steps is not None and phase.epochs != Phase().epochs:
            raise UserError(
                f"phases.{index}.epochs is {phase.epochs} and phases.{index}.steps {phase.steps}, but a phase has one "
                f"length; set steps to None, or epochs to {Phase().epochs}, its default, which then says nothing."
            )
        groups = parameter_groups(shapes, config.optimizer, phase, steps_per_epoch, depths)
        since = {path: since.get(path, index) for path in groups.trained}
        last = first + phase_steps(phase, steps_per_epoch)
        split = _split_by_beginning(groups, since)
        stages.append(Stage(index, first, last, split, phase.batch_norm, config.optimizer))
        first = last
    return stages


def _split_by_beginning(groups: ParameterGroups, since: Mapping[str, int]) -> ParameterGroups:
    """Cuts each group into the parts that have been trained since the same phase, where there are several."""
    beginnings: dict[str, set[int]] = {}
    for path, phase in since.items():
        beginnings.setdefault(groups.labels[path], set()).add(phase)
    labels, parts = {}, dict[str, ParameterGroup]()
    for path, label in groups.labels.items():
        several = len(beginnings.get(label, ())) > 1
        labels[path] = f"{label} (since phase {since[path] + 1})" if several else label
        parts[labels[path]] = replace(groups.groups[label], label=labels[path])
    return ParameterGroups(labels, parts)
