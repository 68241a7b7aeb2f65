"""Edits of a network as fields: what is deleted, replaced, inserted or cut off, and layers by PyTorch's names and
arguments. What they do to a model is in `jaxft.surgery`.

All paths of one list of edits are those of the network before any of them. A path is `layer4[1].conv2` or
`layer4.1.conv2`; `layer4[0:1]` is a range of a list, as in Python, and `layer3..layer4` are parts of one module from
the first to the last, in their order; one of the two may be left out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

import pydantic
from pydantic.dataclasses import dataclass

from jaxft.errors import UserError
from jaxft.fields import STRICT, explain, field_names

Count = pydantic.PositiveInt
Size = Count | tuple[Count, Count]
"""One number of pixels, or (height, width)."""
Border = pydantic.NonNegativeInt | tuple[pydantic.NonNegativeInt, pydantic.NonNegativeInt]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Conv2d:
    """`torch.nn.Conv2d`."""

    type: Literal["Conv2d"] = "Conv2d"
    """PyTorch's name."""
    in_channels: Count | None = None
    """None takes what comes in."""
    out_channels: Count | None = None
    """Channels that it puts out; None puts out the number of classes, so that the layer belongs to @head."""
    kernel_size: Size
    """Pixels."""
    stride: Size = 1
    """Pixels."""
    padding: Border = 0
    """Pixels at each side."""
    dilation: Size = 1
    """Pixels from one position of the kernel to the next."""
    groups: Count = 1
    """Parts that the channels are cut into."""
    bias: bool = True
    """Whether it has one."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Linear:
    """`torch.nn.Linear`."""

    type: Literal["Linear"] = "Linear"
    """PyTorch's name."""
    in_features: Count | None = None
    """None takes what comes in."""
    out_features: Count | None = None
    """None takes the number of classes, so that the layer belongs to @head."""
    bias: bool = True
    """Whether it has one."""
    flatten: bool | None = None
    """Whether it takes a feature map as one vector, as the classifier of a VGG does; None finds out from in_features,
    or from what was there before."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BatchNorm:
    """`torch.nn.BatchNorm2d`, or `BatchNorm1d` of vectors."""

    type: Literal["BatchNorm2d", "BatchNorm1d"] = "BatchNorm2d"
    """PyTorch's name."""
    num_features: Count | None = None
    """None takes what comes in."""
    eps: pydantic.NonNegativeFloat = 1e-5
    """Added to the variance."""
    momentum: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.1
    """The share of a batch in the running statistics."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LayerNorm:
    """`torch.nn.LayerNorm` of vectors and tokens, torchvision's `LayerNorm2d` of feature maps: over the channels."""

    type: Literal["LayerNorm", "LayerNorm2d"] = "LayerNorm"
    """PyTorch's name."""
    normalized_shape: Count | None = None
    """The channels; None takes what comes in."""
    eps: pydantic.NonNegativeFloat = 1e-5
    """Added to the variance."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GroupNorm:
    """`torch.nn.GroupNorm`."""

    type: Literal["GroupNorm"] = "GroupNorm"
    """PyTorch's name."""
    num_groups: Count
    """Parts that the channels are cut into."""
    num_channels: Count | None = None
    """None takes what comes in."""
    eps: pydantic.NonNegativeFloat = 1e-5
    """Added to the variance."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dropout:
    """`torch.nn.Dropout`, or `Dropout2d` of whole channels."""

    type: Literal["Dropout", "Dropout2d"] = "Dropout"
    """PyTorch's name."""
    p: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.5
    """The share that is set to 0 in training."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Activation:
    """One of `torch.nn`'s activations without arguments; `Activation(type="SiLU")`."""

    type: Literal["ReLU", "ReLU6", "SiLU", "GELU", "ELU", "Mish", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh"] = (
        "ReLU"
    )
    """PyTorch's name."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LeakyReLU:
    """`torch.nn.LeakyReLU`."""

    type: Literal["LeakyReLU"] = "LeakyReLU"
    """PyTorch's name."""
    negative_slope: float = 0.01
    """The slope below zero."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Identity:
    """`torch.nn.Identity`: what stands in the place of a layer that is to do nothing."""

    type: Literal["Identity"] = "Identity"
    """PyTorch's name."""


def _check_half(pool: Any) -> Any:
    """Looks whether each window holds a pixel of the image, as PyTorch does."""
    kernel, padding = (n if isinstance(n, tuple) else (n, n) for n in (pool.kernel_size, pool.padding))
    if any(border > size // 2 for size, border in zip(kernel, padding, strict=True)):
        raise ValueError(f"padding {pool.padding} is over half of kernel_size {pool.kernel_size}; give less")
    return pool


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MaxPool2d:
    """`torch.nn.MaxPool2d`."""

    type: Literal["MaxPool2d"] = "MaxPool2d"
    """PyTorch's name."""
    kernel_size: Size
    """Pixels."""
    stride: Size | None = None
    """Pixels; None for kernel_size."""
    padding: Border = 0
    """Pixels at each side."""
    ceil_mode: bool = False
    """Whether the last windows may reach over the edge."""

    _check_padding = pydantic.model_validator(mode="after")(_check_half)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AvgPool2d:
    """`torch.nn.AvgPool2d`."""

    type: Literal["AvgPool2d"] = "AvgPool2d"
    """PyTorch's name."""
    kernel_size: Count
    """Pixels."""
    stride: Count | None = None
    """Pixels; None for kernel_size."""
    padding: pydantic.NonNegativeInt = 0
    """Pixels at each side, which count as 0."""

    _check_padding = pydantic.model_validator(mode="after")(_check_half)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AdaptiveAvgPool2d:
    """`torch.nn.AdaptiveAvgPool2d`."""

    type: Literal["AdaptiveAvgPool2d"] = "AdaptiveAvgPool2d"
    """PyTorch's name."""
    output_size: Size = 1
    """Pixels that it puts out."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Flatten:
    """`torch.nn.Flatten`: a feature map as a vector, the channels first."""

    type: Literal["Flatten"] = "Flatten"
    """PyTorch's name."""


AnyLayer = (
    Conv2d
    | Linear
    | BatchNorm
    | LayerNorm
    | GroupNorm
    | Dropout
    | Activation
    | LeakyReLU
    | Identity
    | MaxPool2d
    | AvgPool2d
    | AdaptiveAvgPool2d
    | Flatten
)
KINDS: tuple[Any, ...] = get_args(AnyLayer)
BY_NAME = {name: kind for kind in KINDS for name in get_args(get_type_hints(kind)["type"])}
"""The dataclass of each of PyTorch's names."""


def _layer(value: Any) -> Any:
    """A layer from a dictionary of its arguments with its `type`."""
    return value if isinstance(value, KINDS) else _made(value, BY_NAME, "a layer")


def _made(value: Any, kinds: Mapping[str, Any], what: str) -> Any:
    kind = kinds.get(value.get("type", "")) if isinstance(value, Mapping) else None
    if kind is None:
        raise ValueError(f"{what} is one of the classes of jaxft.edits, or a dict with a type: {', '.join(kinds)}")
    try:
        return kind(**value)
    except pydantic.ValidationError as error:
        raise ValueError(explain(error, {kind.__name__: field_names(kind)}).rstrip(".")) from error


def _layers(value: Any) -> Any:
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("there is no layer in the list; write Identity() for one that does nothing")
        return tuple(map(_layer, value))
    return _layer(value)


Layers = Annotated[AnyLayer | tuple[AnyLayer, ...], pydantic.BeforeValidator(_layers)]
"""One layer, or several in a `torch.nn.Sequential`; each as a dataclass or as a dictionary with its `type`."""
Path = Annotated[str, pydantic.Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Delete:
    """`del model.features[5]`: takes out items of a list, whose later items move up, or sets a part to None."""

    type: Literal["Delete"] = "Delete"
    """What is done."""
    path: Path
    """What is deleted."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Replace:
    """`model.fc = torch.nn.Linear(512, 10)`: puts something else in the place of a part, or of all of a range."""

    type: Literal["Replace"] = "Replace"
    """What is done."""
    path: Path
    """What is replaced."""
    layer: Layers
    """What comes there; several are a Sequential, at fc.0, fc.1, ..."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Insert:
    """`model.features.insert(5, torch.nn.Dropout())`: into a list, whose later items move down; beside any other part,
    `model.layer4 = torch.nn.Sequential(model.layer4, torch.nn.Dropout())`, so that it is at layer4.0 then."""

    type: Literal["Insert"] = "Insert"
    """What is done."""
    layer: Layers
    """What comes there; several one after the other."""
    before: Path | None = None
    """What it comes before."""
    after: Path | None = None
    """What it comes after; one of the two must be given."""

    @pydantic.model_validator(mode="after")
    def _check_place(self) -> Self:
        if (self.before is None) == (self.after is None):
            raise ValueError("one of before and after must be given, and not both")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cut:
    """Ends a classifier after a stage or a block. What comes after it goes, up to the pooling; what follows that stays,
    but for layers that do not fit any more, which are made anew for as many channels as there are now."""

    type: Literal["Cut"] = "Cut"
    """What is done."""
    after: Path
    """The last part that stays."""


Edit = Annotated[Delete | Replace | Insert | Cut, pydantic.Field(discriminator="type")]
"""An edit, as a dataclass or as a dictionary of its fields with its `type`."""
EDITS: dict[str, Any] = {kind.__name__: kind for kind in (Delete, Replace, Insert, Cut)}
READER: pydantic.TypeAdapter[tuple[Edit, ...]] = pydantic.TypeAdapter(tuple[Edit, ...])


def edit_of(value: Any) -> Edit:
    """An edit from what is one, or from a dictionary of its fields with its `type`.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, Delete | Replace | Insert | Cut):
        return value
    try:
        edit: Edit = _made(value, EDITS, "an edit")
    except ValueError as error:
        raise UserError(f"{error}, found {' '.join(repr(value).split())}.") from error
    return edit


def described(edit: Edit) -> str:
    """An edit in two or three words: `Replace fc`, `Insert after layer4`."""
    if isinstance(edit, Delete | Replace):
        return f"{edit.type} {edit.path}"
    if isinstance(edit, Insert) and edit.before is not None:
        return f"Insert before {edit.before}"
    return f"{edit.type} after {edit.after}"


def plain(edits: tuple[Edit, ...]) -> list[dict[str, Any]]:
    """Edits as JSON has them, without what is as it is by default; `READER` reads them."""
    return [_plain(edit) for edit in edits]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: (getattr(value, field.name), field.default) for field in dataclasses.fields(value)}
    return {name: _plain(own) for name, (own, default) in fields.items() if name == "type" or own != default}
