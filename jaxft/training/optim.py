"""Subtree rules -> parameter groups -> `optax.multi_transform`; and the modes of a model's layers during a phase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx

from jaxft import config
from jaxft.errors import UserError
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import matches, modules
from jaxft.optimization import READERS
from jaxft.training.adafactor import scale_by_adafactor
from jaxft.training.schedules import Rates, phase_steps, schedule

FROZEN = "frozen"
POSITIONS = ("class_token", "pos_embedding", "relative_position_bias_table")
"""What parameters are called that say where something is."""
Numbers = dict[str, Any]
"""What an optimizer multiplies with: `learning_rate` and `weight_decay` by the label of a group, `momentum`, ...; they
are inputs of a compiled step, so that a changed number compiles nothing."""


@dataclass(frozen=True)
class ParameterGroup:
    """The parameters that one rule covers, or the part of them that does not decay."""

    label: str
    lr: Rates
    weight_decay: float
    frozen: bool
    batch_norm: str = "inherit"


@dataclass(frozen=True)
class ParameterGroups:
    """Which group each parameter belongs to. `labels` has one entry a parameter, by its dotted path."""

    labels: Mapping[str, str]
    groups: Mapping[str, ParameterGroup]

    def group(self, path: str) -> ParameterGroup:
        """The group of the parameter at a dotted path."""
        return self.groups[self.labels[path]]

    @property
    def trained(self) -> frozenset[str]:
        """The paths of the parameters that are not frozen."""
        return frozenset(path for path in self.labels if not self.group(path).frozen)

    @property
    def trained_groups(self) -> list[ParameterGroup]:
        """The groups that are not frozen, in the order of their labels."""
        return [self.groups[label] for label in sorted(self.groups) if not self.groups[label].frozen]


def parameter_groups(
    shapes: Mapping[str, tuple[int, ...]],
    optimizer: config.Optimizer,
    phase: config.Phase,
    steps_per_epoch: int,
    depths: Mapping[str, int] = MappingProxyType({}),
) -> ParameterGroups:
    """Applies the rules of a phase to parameters given by dotted path and shape.

    Args:
        depths: of the parameters, where `layer_decay` makes a difference; see `jaxft.models.depth`.

    Raises:
        UserError: a rule matches nothing, a parameter is matched by no rule, or everything is frozen; all at once.
    """
    owners = {path: _first(phase.rules, path) for path in shapes}
    problems = [
        f"rule {rule.pattern!r} is the first match of no parameter"
        for index, rule in enumerate(phase.rules)
        if index not in owners.values()
    ]
    problems += [f"no rule matches {path}" for path, index in owners.items() if index is None]
    if problems:
        parts = ", ".join(sorted({path.partition(".")[0] for path in shapes}))
        raise UserError(f"The rules do not fit the model, whose parts are {parts}: {'; '.join(problems)}.")
    if all(rule.frozen for rule in phase.rules):
        raise UserError("Every rule is frozen, so nothing would be trained; leave at least one part unfrozen.")

    steps = phase_steps(phase, steps_per_epoch)
    labels, groups, last = {}, {}, max(depths.values(), default=0)
    for path, index in owners.items():
        assert index is not None
        rule = phase.rules[index]
        spared = _is_spared(path, shapes[path], optimizer)
        label = f"{index}: {rule.pattern}" + (" (no decay)" if spared else "")
        above = last - depths[path] if depths else 0
        label += f" (depth {depths[path]})" if depths else ""
        if rule.frozen:
            label = FROZEN if rule.batch_norm == "inherit" else f"{FROZEN}, {rule.batch_norm} statistics"
        labels[path] = label
        if label in groups:
            continue
        moving = phase.schedule if rule.schedule.decay == "inherit" else rule.schedule
        rate = optimizer.learning_rate * phase.lr_scale * rule.lr_scale * optimizer.layer_decay**above
        groups[label] = ParameterGroup(
            label=label,
            lr=schedule(moving, 0.0 if rule.frozen else rate, steps, steps_per_epoch, optimizer.accumulate),
            weight_decay=0.0 if rule.frozen or spared else optimizer.weight_decay * rule.weight_decay_scale,
            frozen=rule.frozen,
            batch_norm=rule.batch_norm,
        )
    return ParameterGroups(labels, groups)


def _is_spared(path: str, shape: tuple[int, ...], optimizer: config.Optimizer) -> bool:
    """Whether the optimizer's switches spare a parameter the weight decay."""
    small = len(shape) < 2 and not optimizer.decay_bias_and_norm
    return small or (path.rpartition(".")[2] in POSITIONS and not optimizer.decay_positions)


def _first(rules: Sequence[config.Rule], path: str) -> int | None:
    return next((index for index, rule in enumerate(rules) if matches(rule.pattern, path)), None)


def optimizer_numbers(groups: ParameterGroups, optimizer: config.Optimizer) -> Numbers:
    """The numbers of an optimizer that are the same at every step: all but the learning rates."""
    numbers: Numbers = {"weight_decay": {group.label: group.weight_decay for group in groups.trained_groups}}
    first, second = optimizer.betas
    read = {"momentum": optimizer.momentum, "alpha": optimizer.alpha, "trust": optimizer.trust, "eps": optimizer.eps}
    numbers |= {name: value for name, value in read.items() if optimizer.name in READERS[name]}
    if optimizer.name in READERS["betas"]:
        numbers |= {"first": first, "second": second}
    if optimizer.clip_norm is not None:
        numbers["clip_norm"] = optimizer.clip_norm
    return numbers


def steps(
    optimizer: config.Optimizer, numbers: Numbers, decay: optax.GradientTransformation, rate: Any
) -> list[optax.GradientTransformation]:
    """What an optimizer does to a gradient, one after the other; the place of the weight decay is a part of it."""
    kept = jnp.bfloat16 if optimizer.moments == "bfloat16" else None  # the parameters' own type
    step = optax.scale_by_learning_rate(rate)
    if optimizer.name in READERS["momentum"]:
        trace = optax.trace(numbers["momentum"], nesterov=optimizer.nesterov, accumulator_dtype=kept)
        momentum = trace if optimizer.momentum else optax.identity()
        if optimizer.name == "lars":  # whose momentum sums up steps, and not gradients
            return [decay, optax.scale_by_trust_ratio(trust_coefficient=numbers["trust"]), step, momentum]
        if optimizer.name == "rmsprop":
            mean = optax.scale_by_rms(numbers["alpha"], numbers["eps"], eps_in_sqrt=False)
            return [decay, mean, momentum, step]
        return [decay, momentum, step]
    if optimizer.name == "adafactor":
        return [scale_by_adafactor(rate), decay, step]
    first, second = numbers["first"], numbers["second"]
    if optimizer.name == "lion":
        return [optax.scale_by_lion(first, second, mu_dtype=kept), decay, step]
    eps = numbers["eps"]
    if optimizer.name == "radam":
        return [decay, optax.scale_by_radam(first, second, eps), step]
    adam = optax.scale_by_adam(first, second, eps=eps, mu_dtype=kept)
    return {
        "adam": [decay, adam, step],
        "adamw": [adam, decay, step],
        "lamb": [adam, decay, optax.scale_by_trust_ratio(), step],
    }[optimizer.name]


def transformation(
    labels: Mapping[str, str], optimizer: config.Optimizer, numbers: Numbers
) -> optax.GradientTransformation:
    """The whole optimizer over parameters by dotted path: each group its own chain, frozen parts zero updates.

    Args:
        labels: of every parameter, its group's; the frozen groups' begin with `FROZEN`.
        numbers: those of `optimizer_numbers` and `learning_rate` by label. The state that the optimizer makes has the
            same structure whatever they are.
    """

    def chain(label: str) -> optax.GradientTransformation:
        if label.startswith(FROZEN):
            return optax.set_to_zero()
        decay = optax.add_decayed_weights(numbers["weight_decay"][label])
        return optax.chain(*steps(optimizer, numbers, decay, numbers["learning_rate"][label]))

    parts = optax.multi_transform(
        {label: chain(label) for label in sorted({*labels.values()})},
        lambda params: {path: labels[path] for path in params},
    )
    return parts if optimizer.clip_norm is None else optax.chain(optax.clip_by_global_norm(numbers["clip_norm"]), parts)


def set_modes(model: nnx.Module, groups: ParameterGroups, batch_norm: str) -> None:
    """Puts a model into training as a phase wants it; `model.train()` and `model.eval()` do not undo the frozen part.

    A BatchNorm whose scale is frozen, or every one where `batch_norm` is `"running"`, uses and keeps its running
    statistics; unless its rule says itself what it does. Dropout and drop-path go on in frozen parts, as they do in
    PyTorch.
    """
    model.train()
    for path, module in modules(model):
        if not isinstance(module, BatchNorm | nnx.BatchNorm):
            continue
        label = next((groups.labels[name] for name in (f"{path}.scale", f"{path}.bias") if name in groups.labels), None)
        group = None if label is None else groups.groups[label]
        told = "running" if group is not None and group.frozen else batch_norm
        running = (told if group is None or group.batch_norm == "inherit" else group.batch_norm) == "running"
        if isinstance(module, BatchNorm):
            module.running_only = running
        else:
            module.use_running_average = running
