"""MMEngine's initialisers as fields: its names, arguments and defaults, for what no checkpoint fills.

A rule says how (`Normal`, `Kaiming`, ...) and where: in all layers of some kinds, in named parts of the model, or both.
`jaxft.initialization.drawing` draws by them. What they mean is read from MMEngine 0.10's `model/weight_init.py`.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.fields import STRICT

LAYERS = (
    *("Conv2d", "ConvWS2d", "ConvTranspose2d", "Linear"),
    *("BatchNorm2d", "SyncBatchNorm", "_BatchNorm", "GroupNorm", "LayerNorm"),
    *("_ConvNd", "_ConvTransposeNd", "_NormBase"),
    *("Conv1d", "Conv3d", "ConvTranspose1d", "ConvTranspose3d", "BatchNorm1d", "BatchNorm3d", "InstanceNorm2d"),
)
"""PyTorch's and mmcv's names of the layers that models of jaxft have. A rule for `Conv2d` counts for `ConvWS2d`, too,
one for `_BatchNorm` for every batch normalization."""
Distribution = Literal["normal", "uniform"]
NonNegative = Annotated[float, pydantic.Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Biased:
    """What biases start from, which all kinds have in common."""

    bias: float = 0.0
    """The value of every bias."""
    bias_prob: Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None
    """In the place of bias: what a sigmoid puts out at first where the weights add nothing."""

    @property
    def first_bias(self) -> float:
        """The value of every bias: log(p / (1 - p)) of a probability."""
        return self.bias if self.bias_prob is None else math.log(self.bias_prob / (1 - self.bias_prob))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Constant(Biased):
    """One value for all weights."""

    type: Literal["Constant"] = "Constant"
    """MMEngine's name."""
    val: float
    """The value."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Xavier(Biased):
    """A deviation of gain * sqrt(2 / (fan_in + fan_out)); Glorot and Bengio 2010."""

    type: Literal["Xavier"] = "Xavier"
    """MMEngine's name."""
    gain: NonNegative = 1.0
    """Multiplies the deviation."""
    distribution: Distribution = "normal"
    """Normal, or uniform with the same deviation."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Normal(Biased):
    """A normal distribution."""

    type: Literal["Normal"] = "Normal"
    """MMEngine's name."""
    mean: float = 0.0
    """Its mean."""
    std: NonNegative = 1.0
    """Its deviation."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TruncNormal(Biased):
    """A normal distribution without its tails."""

    type: Literal["TruncNormal"] = "TruncNormal"
    """MMEngine's name."""
    mean: float = 0.0
    """The mean of the whole distribution."""
    std: pydantic.PositiveFloat = 1.0
    """The deviation of the whole distribution."""
    a: float = -2.0
    """The smallest value, as it stands, not in deviations."""
    b: float = 2.0
    """The largest value."""

    def __post_init__(self) -> None:
        _check_order(self.a, self.b)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Uniform(Biased):
    """All values of an interval alike."""

    type: Literal["Uniform"] = "Uniform"
    """MMEngine's name."""
    a: float = 0.0
    """The smallest value."""
    b: float = 1.0
    """The largest value."""

    def __post_init__(self) -> None:
        _check_order(self.a, self.b)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Kaiming(Biased):
    """A deviation of gain / sqrt(fan); He et al. 2015."""

    type: Literal["Kaiming"] = "Kaiming"
    """MMEngine's name."""
    a: float = 0.0
    """leaky_relu: its slope below zero."""
    mode: Literal["fan_in", "fan_out"] = "fan_out"
    """Which fan: what one output sums up, or what one input goes to."""
    nonlinearity: Literal["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"] = "relu"
    """What follows the layer; it decides the gain, as in `torch.nn.init.calculate_gain`."""
    distribution: Distribution = "normal"
    """Normal, or uniform with the same deviation."""

    @property
    def gain(self) -> float:
        """What keeps the variance through the nonlinearity, by the table of `torch.nn.init.calculate_gain`."""
        gains = {"tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + self.a**2)), "selu": 3 / 4}
        return gains.get(self.nonlinearity, 1.0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Caffe2Xavier(Biased):
    """Uniform with a deviation of 1 / sqrt(fan_in), which Caffe2 calls Xavier."""

    type: Literal["Caffe2Xavier"] = "Caffe2Xavier"
    """MMEngine's name."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Checkpoint:
    """The weights of a file."""

    type: Literal["Pretrained"] = "Pretrained"
    """MMEngine's name."""
    checkpoint: str
    """What `pretrained.source` takes; of torchvision's, `torchvision://NAME` means the first, as in MMEngine."""
    prefix: str | None = None
    """Take what is below this in the file, without it."""

    @property
    def source(self) -> str:
        """The checkpoint as `pretrained.source` has it: MMEngine writes `torchvision://NAME.WEIGHTS`."""
        scheme, mark, name = self.checkpoint.partition("://")
        if scheme != "torchvision" or not mark or "/" in name:
            return self.checkpoint
        model, _, weights = name.partition(".")
        return f"torchvision://{model}/{weights or 'IMAGENET1K_V1'}"

    @property
    def start(self) -> str:
        """The prefix with its point; empty where there is none."""
        return f"{self.prefix.removesuffix('.')}." if self.prefix else ""


Drawn = Constant | Xavier | Normal | TruncNormal | Uniform | Kaiming | Caffe2Xavier
"""What draws values; with `Checkpoint` all of MMEngine's initialisers, without their `layer` and `override`."""


def _check_order(a: float, b: float) -> None:
    if a > b:
        raise ValueError(f"a must not be larger than b, but a is {a} and b is {b}")


def _layers(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    for name in names if isinstance(names, list | tuple) else ():
        if name not in LAYERS:
            raise ValueError(f"{name!r} is no kind of layer that jaxft's models have; they have {', '.join(LAYERS)}")
    return names


def _listed(value: Any) -> Any:
    return () if value is None else (value,) if isinstance(value, Mapping | Override) else value


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Override:
    """A part that gets something else: `Override(name="fc", how=Constant(val=0))`, or as MMEngine writes it,
    `dict(type="Constant", name="fc", val=0)`."""

    name: str
    """An attribute of the model, or a dotted path; all layers in it are drawn."""
    how: Drawn | Checkpoint | None = pydantic.Field(default=None, discriminator="type")
    """None for what the rule around it says."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _spread(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "how" in value:
            return value
        rest = {name: item for name, item in value.items() if name != "name"}
        if value.get("name") is None:
            raise ValueError(f"an override needs a name, that of the part which it is for, but there is only {rest}")
        if rest and "type" not in rest:
            raise ValueError(
                f"the override of {value['name']!r} gives {', '.join(rest)} without a type; add the type, or give its "
                "name alone to draw it as the rule around it says"
            )
        return {"name": value["name"], "how": rest or None}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Initialize:
    """How some layers start: `Initialize(how=Normal(std=0.01), layer="Conv2d")`, or as MMEngine writes it,
    `dict(type="Normal", std=0.01, layer="Conv2d")`. Without `layer` and `override` it draws nothing."""

    how: Drawn | Checkpoint = pydantic.Field(discriminator="type")
    """The kind of initialiser."""
    layer: Annotated[tuple[str, ...], pydantic.BeforeValidator(_layers)] = ()
    """Kinds of layers, by PyTorch's names."""
    override: Annotated[tuple[Override, ...], pydantic.BeforeValidator(_listed)] = ()
    """Parts that are drawn after that, each by a kind of its own or by this one."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _spread(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "how" in value:
            return value
        if "type" not in value:
            raise ValueError("an initialiser needs a type: Constant, Xavier, Normal, ... or Pretrained")
        where = {name: value[name] for name in ("layer", "override") if value.get(name) is not None}
        return {"how": {name: item for name, item in value.items() if name not in ("layer", "override")}, **where}

    def __post_init__(self) -> None:
        if isinstance(self.how, Checkpoint) and (self.layer or self.override):
            raise ValueError("an initialiser of the type Pretrained takes no layer and no override")
        if any(isinstance(part.how, Checkpoint) for part in self.override):
            raise ValueError("an override cannot be of the type Pretrained; pretrained.rename fills parts of a model")
