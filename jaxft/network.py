"""What a configuration says of the network: its layers, where its first weights come from, and who teaches it."""

import dataclasses
from typing import Annotated, Any, Literal

import pydantic
import tyro
from pydantic.dataclasses import dataclass

from jaxft.adapters import Lora
from jaxft.edits import Edit
from jaxft.fields import STRICT, Option
from jaxft.initialization import Initialize


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """The network."""

    name: str = "resnet18"
    """One of `jaxft.list_models()`."""
    num_classes: int | None = None
    """Outputs of the last layer; None takes the number of classes in the data, any other number must equal it."""
    options: dict[str, Option] = dataclasses.field(default_factory=dict)
    """Further arguments of the model's builder, such as dropout."""
    init: tuple[Initialize, ...] = ()
    """MMEngine's initialisers, those of `jaxft.initialization`, for what no checkpoint fills; later ones win. One of
    the type Pretrained becomes `pretrained.source`."""
    lora: Lora = Lora()
    """Low-rank additions to frozen layers, which rules name as *.lora."""
    mmdet: Annotated[dict[str, Any] | None, tyro.conf.Suppress] = None
    """A detector as the `model` of an MMDetection configuration describes it, instead of a name."""
    edits: tuple[Edit, ...] = ()
    """What is deleted, replaced, inserted or cut off, as the classes of `jaxft.edits` or as dictionaries with a `type`.
    All paths are those of the model before any of them."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pretrained:
    """Where the first weights come from."""

    source: str | None = None
    """Path, http(s) URL, package://MODULE/FILE, torchvision://NAME, or run://DIRECTORY (another run's best model; with
    #last or #STEP that one). None trains from scratch."""
    sha256: str | None = None
    """Expected hash of the file, or its first digits."""
    skip: tuple[str, ...] = ()
    """Patterns of names to leave out of the checkpoint; these parts start fresh. A new head must be named here, by its
    path or as @head, the class-dependent layers of any model. A pattern that may match nothing starts with ~."""
    transfer_head_rows: bool = False
    """Take the rows of the new head from the checkpoint for the classes that it knows by the same name; checkpoints of
    MMDetection say what their classes are called."""
    known_classes: int = pydantic.Field(default=0, ge=0)
    """transfer_head_rows: the checkpoint knows the first so many of the data's classes, in their order, whatever it
    calls them; 0 goes by its names."""
    prefix: str = ""
    """Take what lies below this in the checkpoint alone, without it, such as student.; leave the rest out."""
    rename: dict[str, str] = dataclasses.field(default_factory=dict)
    """Prefixes of the checkpoint's names to replace, after that."""
    edited: bool | None = None
    """model.edits: whether the checkpoint is of the model after them; None finds out: by its metadata, or else by what
    fits, and what fits both ways is of the model before them."""
    new_kernels: Literal["default", "xavier_uniform"] = "default"
    """How the kernels of skipped linear layers are drawn: as the model's family does it, or Xavier-uniform."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FeaturePair:
    """A layer of the student that learns to put out what a layer of the teacher does."""

    student: str
    """Path of a layer of the model that trains, such as layer3 or features.5."""
    teacher: str = ""
    """Path of a layer of the teacher whose output has the same shape; empty for the same path."""
    weight: float = pydantic.Field(default=1.0, ge=0)
    """Of their mean squared error in the loss."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Distillation:
    """A second model, frozen, whose outputs are learned beside the labels (https://arxiv.org/abs/1503.02531)."""

    teacher: str | None = None
    """run://DIRECTORY (another run's model), the path of an export, torchvision://NAME, or another source of weights
    with teacher_model; None has no teacher."""
    teacher_model: Annotated[Model | None, tyro.conf.Suppress] = None
    """The teacher's network, where its source does not say it."""
    known_classes: int = pydantic.Field(default=0, ge=0)
    """The teacher knows the first so many of the data's classes; 0 for all."""
    temperature: float = pydantic.Field(default=4.0, gt=0)
    """Logits of both are divided by it, and the loss is multiplied by its square; regression has no logits."""
    weight: float = pydantic.Field(default=1.0, ge=0)
    """Of the difference of the two models' outputs in the loss; with 0 features alone are compared."""
    task_weight: float = pydantic.Field(default=1.0, ge=0)
    """Of the task's own loss."""
    features: tuple[FeaturePair, ...] = ()
    """Layers whose outputs are compared, too."""
