"""Subtree rules -> labels -> `optax.multi_transform`; schedules; and the modes of a model's layers during a phase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optax
from flax import nnx

from jaxft import config
from jaxft.errors import UserError
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import matches, modules

FROZEN = "frozen"


@dataclass(frozen=True)
class Group:
    """The parameters that one rule covers, or the part of them that does not decay."""

    label: str
    rate: optax.Schedule
    weight_decay: float
    frozen: bool
    batch_norm: str = "inherit"


@dataclass(frozen=True)
class Plan:
    """Which group each parameter belongs to. `labels` has one entry a parameter, by its dotted path."""

    labels: Mapping[str, str]
    groups: Mapping[str, Group]

    def group(self, path: str) -> Group:
        """The group of the parameter at a dotted path."""
        return self.groups[self.labels[path]]

    def highest_rate(self, step: int) -> float:
        """The highest learning rate of all groups at a step of the phase."""
        return max(float(group.rate(step)) for group in self.groups.values())


def plan(
    shapes: Mapping[str, tuple[int, ...]], optimizer: config.Optimizer, phase: config.Phase, steps_per_epoch: int
) -> Plan:
    """Applies the rules of a phase to parameters given by dotted path and shape.

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

    steps = phase.epochs * steps_per_epoch
    labels, groups = {}, {}
    for path, index in owners.items():
        assert index is not None
        rule = phase.rules[index]
        spared = len(shapes[path]) < 2 and not optimizer.decay_bias_and_norm
        label = f"{index}: {rule.pattern}" + (" (no decay)" if spared else "")
        if rule.frozen:
            label = FROZEN if rule.batch_norm == "inherit" else f"{FROZEN}, {rule.batch_norm} statistics"
        labels[path] = label
        groups[label] = Group(
            label=label,
            rate=schedule(
                phase.schedule if rule.schedule.decay == "inherit" else rule.schedule,
                0.0 if rule.frozen else optimizer.learning_rate * phase.rate * rule.rate,
                steps,
                steps_per_epoch,
            ),
            weight_decay=0.0 if rule.frozen or spared else optimizer.weight_decay * rule.decay,
            frozen=rule.frozen,
            batch_norm=rule.batch_norm,
        )
    return Plan(labels, groups)


def _first(rules: Sequence[config.Rule], path: str) -> int | None:
    return next((index for index, rule in enumerate(rules) if matches(rule.pattern, path)), None)


def schedule(settings: config.Schedule, rate: float, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate at each step of a phase of `steps` steps, counted from 0.

    The warm-up is PyTorch's `LinearLR(start_factor=warmup_factor, total_iters=warmup)` or `ConstantLR(factor=
    warmup_factor, total_iters=warmup)`, multiplied with the decay:
    `MultiStepLR` counted from the start of the phase; cosine from the end of the warm-up to the end of the phase; or
    `optax.cosine_onecycle_schedule`, which has its own warm-up.

    Raises:
        UserError: the parts contradict each other.
    """
    unit = steps_per_epoch if settings.unit == "epoch" else 1
    warmup = warmup_steps(settings, steps_per_epoch)
    if warmup >= steps:
        raise UserError(f"A warm-up of {warmup} steps does not fit a phase of {steps} steps; shorten it.")
    if bool(settings.milestones) != (settings.decay == "multistep"):
        raise UserError(
            f"The decay {settings.decay!r} has milestones {settings.milestones}; they belong to 'multistep'."
        )
    if settings.decay == "inherit":
        raise UserError("A phase has no schedule to inherit; choose another --phases.N.schedule.decay.")
    if settings.decay == "onecycle":
        if warmup:
            raise UserError("The decay 'onecycle' warms up by itself; set its warmup to 0.")
        return optax.cosine_onecycle_schedule(steps, rate, pct_start=settings.peak)
    if settings.decay == "multistep":
        milestones = {round(milestone * unit): settings.gamma for milestone in settings.milestones}
        decay = optax.piecewise_constant_schedule(rate, milestones)
    else:
        final = settings.final if settings.decay == "cosine" else 1.0
        cosine = optax.cosine_decay_schedule(rate, steps - warmup, alpha=final)
        decay = optax.join_schedules([optax.constant_schedule(rate), cosine], [warmup])
    if not warmup:
        return decay
    if settings.warmup_shape == "constant":
        ramp = optax.join_schedules([optax.constant_schedule(settings.warmup_factor), lambda _: 1.0], [warmup])
    else:
        ramp = optax.linear_schedule(settings.warmup_factor, 1.0, warmup)
    return lambda step: ramp(step) * decay(step)


def warmup_steps(settings: config.Schedule, steps_per_epoch: int) -> int:
    """The length of the linear warm-up in steps."""
    unit = settings.unit if settings.warmup_unit == "same" else settings.warmup_unit
    return round(settings.warmup * (steps_per_epoch if unit == "epoch" else 1))


def transformation(groups: Plan, optimizer: config.Optimizer) -> optax.GradientTransformation:
    """The whole optimizer over parameters by dotted path: each group its own chain, frozen parts zero updates."""
    chains = {label: _chain(group, optimizer) for label, group in groups.groups.items()}
    parts = optax.multi_transform(chains, lambda params: {path: groups.labels[path] for path in params})
    return parts if optimizer.clip_norm is None else optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), parts)


def _chain(group: Group, optimizer: config.Optimizer) -> optax.GradientTransformation:
    """PyTorch's SGD, Adam or AdamW: the place of the weight decay in the chain is what differs."""
    if group.frozen:
        return optax.set_to_zero()
    decay = optax.add_decayed_weights(group.weight_decay) if group.weight_decay else optax.identity()
    if optimizer.name == "sgd":
        momentum = optimizer.momentum
        trace = optax.trace(momentum, nesterov=optimizer.nesterov) if momentum else optax.identity()
        parts = [decay, trace]
    else:
        adam = optax.scale_by_adam(*optimizer.betas, eps=optimizer.eps)
        parts = [decay, adam] if optimizer.name == "adam" else [adam, decay]
    return optax.chain(*parts, optax.scale_by_learning_rate(group.rate))


def set_modes(model: nnx.Module, groups: Plan, batch_norm: str) -> None:
    """Puts a model into training as a phase wants it; `model.train()` and `model.eval()` do not undo the frozen part.

    A BatchNorm whose scale is frozen, or every one where `batch_norm` is `"running"`, uses and keeps its running
    statistics; unless its rule says itself what it does. Dropout and drop-path go on in frozen parts, as they do in
    PyTorch.
    """
    model.train()
    for path, module in modules(model):
        if isinstance(module, BatchNorm):
            group = groups.group(f"{path}.scale")
            inherited = "running" if group.frozen else batch_norm
            module.running_only = (inherited if group.batch_norm == "inherit" else group.batch_norm) == "running"
