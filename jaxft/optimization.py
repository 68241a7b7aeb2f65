"""How parameters move: the optimizer, phases with their rules and schedules, averages, and when to end."""

from typing import Annotated, Literal

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT
from jaxft.schedulers import Scheduler

Decay = Annotated[float, pydantic.Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Schedule:
    """How the learning rate moves over a phase: linear warm-up times a decay; or MMEngine's schedulers."""

    decay: Literal["constant", "multistep", "cosine", "onecycle", "inherit"] = "constant"
    """What follows the warm-up; inherit, in a rule, takes the phase's whole schedule."""
    unit: Literal["step", "epoch"] = "epoch"
    """What warmup and milestones count."""
    warmup: float = pydantic.Field(default=0.0, ge=0)
    """Length of the linear warm-up."""
    warmup_unit: Literal["same", "step", "epoch"] = "same"
    """What warmup counts, where that is not what milestones count."""
    warmup_factor: float = pydantic.Field(default=0.001, gt=0, le=1)
    """The warm-up starts at this share of the rate."""
    warmup_shape: Literal["linear", "constant"] = "linear"
    """Whether the share grows to 1, or stays until the warm-up is over."""
    milestones: tuple[float, ...] = ()
    """multistep: where the rate is multiplied by gamma."""
    gamma: float = 0.1
    """multistep: the factor at each milestone."""
    final: float = pydantic.Field(default=0.0, ge=0)
    """cosine: the share of the rate that is left at the end."""
    peak: float = pydantic.Field(default=0.3, gt=0, lt=1)
    """onecycle: the share of the phase after which the rate is highest."""
    schedulers: tuple[Scheduler, ...] = ()
    """MMEngine's schedulers, those of `jaxft.schedulers`, by their own name and meaning, in place of everything above.
    Each takes the rate as those before it leave it; epochs and iterations count from the start of the phase."""
    micro_batches: bool = False
    """schedulers: steps and epochs count the parts of `optimizer.accumulate`, as MMEngine's iterations do."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rule:
    """What one part of the model gets. The first rule that matches a parameter counts."""

    pattern: str
    """A path or shell-style pattern: fc, layer[34], *.bn1, *; or @head, the class-dependent layers."""
    lr_scale: float = pydantic.Field(default=1.0, ge=0)
    """Multiplies the learning rate."""
    weight_decay_scale: float = pydantic.Field(default=1.0, ge=0)
    """Multiplies the weight decay."""
    frozen: bool = False
    """No gradient, no optimizer state, no decay; BatchNorm uses and keeps its running statistics."""
    batch_norm: Literal["inherit", "batch", "running"] = "inherit"
    """What BatchNorm does here, frozen or not; inherit: running statistics where frozen, else what the phase says."""
    schedule: Schedule = Schedule(decay="inherit")
    """A schedule of its own, or the phase's."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Phase:
    """A stretch of training with one frozen set, one set of rates and one schedule."""

    epochs: int = pydantic.Field(default=5, ge=1)
    """Length, in passes over the training split."""
    steps: int | None = pydantic.Field(default=None, ge=1)
    """Length in steps, in the place of epochs, which is then left at its default."""
    lr_scale: float = pydantic.Field(default=1.0, gt=0)
    """Multiplies the optimizer's learning rate."""
    rules: tuple[Rule, ...] = (Rule(pattern="*"),)
    """Ordered; every parameter must be matched by one, and every rule must match something."""
    schedule: Schedule = Schedule()
    """How the rate moves."""
    batch_norm: Literal["batch", "running"] = "batch"
    """Normalize with the batch's statistics and track them, or use and keep the running ones everywhere."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    """The optimizer, with PyTorch's meaning of every number."""

    name: Literal["sgd", "adam", "adamw", "radam", "rmsprop", "adafactor", "lamb", "lars", "lion"] = "sgd"
    """PyTorch's of these names (adafactor with its defaults, whose steps are relative to the parameters); LAMB
    (arXiv:1904.00962), LARS (1708.03888) and Lion (2302.06675) as Optax has them. The weight decay is a part of the
    gradient in sgd, adam, radam, rmsprop and lars, and one of the step in the others."""
    learning_rate: float = pydantic.Field(default=0.01, gt=0)
    """The rate that phases, rules and schedules multiply."""
    base_batch_size: int | None = pydantic.Field(default=None, ge=1)
    """Examples a step that the learning rate is meant for; None for any."""
    momentum: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """sgd, rmsprop, lars: momentum."""
    nesterov: bool = False
    """sgd: Nesterov's form of momentum."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """adam, adamw, radam, lamb: decay of the two moments. lion: share of the momentum in a step, and its decay; Lion's
    own are 0.9 and 0.99."""
    alpha: float = pydantic.Field(default=0.99, ge=0, lt=1)
    """rmsprop: decay of the mean square."""
    eps: float = pydantic.Field(default=1e-8, gt=0)
    """adam, adamw, radam, rmsprop, lamb: added to the root of the second moment."""
    trust: float = pydantic.Field(default=0.001, gt=0)
    """lars: the trust coefficient."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """sgd, rmsprop and lars with momentum, adam, adamw, lamb, lion: the type that the momentum, or the first moment, is
    kept in; bfloat16 takes half the memory and rounds it to 8 significant bits. The second moment stays float32."""
    weight_decay: float = pydantic.Field(default=0.0, ge=0)
    """Weight decay of parameters that no rule changes it for."""
    decay_bias_and_norm: bool = True
    """Whether one-dimensional parameters (biases, normalisation) decay too, as in PyTorch."""
    decay_positions: bool = True
    """Whether position embeddings, tables of relative positions and class tokens decay, too."""
    layer_decay: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Multiplies the rate once for each block between a parameter and the output (see `jaxft.models.depth`), so that
    what lies near the input moves less; 1 for one rate. A detector's blocks are its backbone's."""
    clip_norm: pydantic.PositiveFloat | None = None
    """Scale the gradient of all trained parameters down to this global norm."""
    accumulate: int = pydantic.Field(default=1, ge=1)
    """Parts in which a batch goes through the model; the step is taken on their mean gradient."""


READERS = {
    "momentum": ("sgd", "rmsprop", "lars"),
    "nesterov": ("sgd",),
    "betas": ("adam", "adamw", "radam", "lamb", "lion"),
    "alpha": ("rmsprop",),
    "eps": ("adam", "adamw", "radam", "rmsprop", "lamb"),
    "trust": ("lars",),
    "moments": ("sgd", "rmsprop", "lars", "adam", "adamw", "lamb", "lion"),
}
"""The optimizers that read a field of `Optimizer`, where not all of them do."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Ema:
    """An average of the parameters over steps, which is what is evaluated and exported."""

    kind: Literal["exponential", "swa"] = "exponential"
    """exponential: a moving average, kept where decay is given. swa: the plain mean of the parameters after step
    `begin` and after each `interval` steps from there on (stochastic weight averaging, arXiv:1803.05407)."""
    decay: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """exponential: how much of the average stays at each step; None keeps no average."""
    warmup: float = pydantic.Field(default=0.0, ge=0)
    """exponential: the gamma of MMDetection's ExpMomentumEMA, in steps, in which the average gets slow; 0 for none."""
    begin: int = pydantic.Field(default=0, ge=0)
    """Steps before the average starts; until then, and after the first step anyway, it equals the parameters."""
    interval: int = pydantic.Field(default=1, ge=1)
    """Steps from one update to the next."""
    buffers: bool = False
    """Average BatchNorm's statistics, too, instead of taking the present ones."""

    @property
    def kept(self) -> bool:
        """Whether an average is kept."""
        return self.kind == "swa" or self.decay is not None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EarlyStopping:
    """When to end a run whose evaluations get no better, as MMEngine's EarlyStoppingHook does."""

    patience: int | None = pydantic.Field(default=None, ge=0)
    """Evaluations in a row that may be no better; None never ends a run early."""
    metric: str | None = None
    """The metric to watch, with a leading - where the smaller value is better; None for that of the best model."""
    min_delta: float = pydantic.Field(default=0.1, ge=0)
    """A value must be better by so much to count as better."""
    strict: bool = False
    """End with an error where an evaluation does not give the metric, instead of leaving it out."""
    threshold: float | None = None
    """End as soon as a value is better than this."""
    check_finite: bool = True
    """End at a value that is NaN or infinite."""
