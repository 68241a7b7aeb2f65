"""What a run is: frozen dataclasses of plain values, from a Python file and the command line, saved as JSON.

A configuration file binds `config`. Inheritance is an import and a `replace`:

    from configs.hotdog import config as base
    config = replace(base, {"optimizer.learning_rate": 0.005})
"""

import dataclasses
import difflib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tyro
from pydantic.dataclasses import dataclass

from jaxft.errors import UserError

STRICT = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
Option = bool | int | float | str | tuple[int | float, ...]
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """The network."""

    name: str = "resnet18"
    """One of `jaxft.list_models()`."""
    num_classes: int | None = None
    """Outputs of the last layer; None takes the number of classes in the data, any other number must equal it."""
    options: dict[str, Option] = dataclasses.field(default_factory=dict)
    """Further arguments of the model's builder, such as dropout."""
    mmdet: Annotated[dict[str, Any] | None, tyro.conf.Suppress] = None
    """A detector as the `model` of an MMDetection configuration describes it, instead of a name."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pretrained:
    """Where the first weights come from."""

    source: str | None = None
    """Path, http(s) URL, package://MODULE/FILE or torchvision://NAME; None trains from scratch."""
    sha256: str | None = None
    """Expected hash of the file, or its first digits."""
    skip: tuple[str, ...] = ()
    """Patterns of names to leave out of the checkpoint; these parts start fresh. A new head must be named here, by its
    path or as @head, which is the layers that put out the classes, whatever the model calls them. A pattern that may
    match nothing starts with ~."""
    carry_classes: bool = False
    """Take the rows of the new head from the checkpoint for the classes that it knows by the same name; checkpoints of
    MMDetection say what their classes are called."""
    rename: dict[str, str] = dataclasses.field(default_factory=dict)
    """Prefixes of the checkpoint's names to replace."""
    new_kernels: Literal["default", "xavier_uniform"] = "default"
    """How the kernels of skipped linear layers are drawn: as the model's family does it, or Xavier-uniform."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Which examples, and how many at a time."""

    source: Literal["folder", "tfds", "digits", "coco", "voc"] = "folder"
    """A folder a class (root/train/CLASS/*.jpg), a TFDS data set, scikit-learn's handwritten digits; or photos with
    objects, for detectors: COCO JSON, or PASCAL VOC (root/Annotations, root/ImageSets/Main, root/JPEGImages)."""
    root: str = "data"
    """The folder with the splits (folder) or with everything (coco, voc), or TFDS' data_dir (tfds)."""
    annotation_file: str = "annotations/instances_{split}.json"
    """coco: the JSON file of a split, below root."""
    image_folder: str = "{split}"
    """coco: the folder of a split's photos, below root."""
    classes: tuple[str, ...] = ()
    """coco, voc: the classes to find, in this order; empty for all that the annotations name."""
    single_class: str | None = None
    """coco, voc: the name of one class that objects of all `classes` count as; what an RPN alone needs."""
    url: str | None = None
    """A zip archive with the folder, downloaded to the cache where root does not exist."""
    sha1: str | None = None
    """The archive's SHA-1."""
    name: str | None = None
    """The TFDS data set's name."""
    train: str = "train"
    """The split to train on."""
    test: str = "test"
    """The split to evaluate on."""
    holdout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Evaluate on this share of the training split instead of the test split (to choose settings)."""
    batch_size: int = pydantic.Field(default=32, ge=1)
    """Examples a step, over all devices and hosts."""
    workers: int = pydantic.Field(default=0, ge=0)
    """Processes that decode photos; 0 decodes in threads of the main process."""

    @property
    def has_objects(self) -> bool:
        """Whether these are photos with objects, for detectors."""
        return self.source in ("coco", "voc")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Images:
    """How a photo becomes an array."""

    crop: int = pydantic.Field(default=224, ge=1)
    """Side of the square that the model sees, pixels."""
    resize: int = pydantic.Field(default=256, ge=1)
    """Evaluation: the short side before the centre crop, pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Training: the area of the random crop, as a share of the photo."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Training: width to height of the random crop."""
    flip: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Training: probability of a horizontal flip."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from the channels scaled to 0..1, in the order that the model sees."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides the channels after that."""
    bgr: bool = False
    """Detection: the model sees B, G, R instead of R, G, B."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Detection:
    """How a photo with objects becomes arrays of fixed shapes. A scale is the longest side and the shortest side that
    a photo may have after resizing, in pixels and either order; the ratio of the sides stays."""

    scales: tuple[Size, ...] = ((1333, 800),)
    """Training: the scales to draw from."""
    scale_draw: Literal["choice", "range"] = "choice"
    """Training: one of the scales, or each side anywhere between the smallest and the largest."""
    test_scale: Size = (1333, 800)
    """Evaluation and prediction: the scale."""
    rounding: Literal["nearest", "down"] = "nearest"
    """How a resized side becomes whole pixels: as MMDetection or as torchvision does it."""
    canvases: tuple[Size, ...] = ()
    """Height and width of the arrays that photos are laid on; each is one compilation. Empty takes what the scales and
    the crop need, one for landscape and one for portrait."""
    divisor: int = pydantic.Field(default=32, ge=1)
    """Sides of canvases that are not given are multiples of this."""
    cap: int = pydantic.Field(default=100, ge=1)
    """Rows for the objects of a photo; more are dropped, and a report says how many that would be."""
    masks: bool = False
    """Read the objects' masks too, for models that find masks."""
    keep_empty: bool = True
    """Train on photos without objects, too."""
    min_side: int = pydantic.Field(default=0, ge=0)
    """Do not train on photos with a shorter side, pixels."""
    distort: bool = False
    """Training: change brightness, contrast, saturation and hue at random, as SSD does."""
    crop: tuple[float, float] | None = None
    """Training: cut a part out of the resized photo; its numbers mean what crop_kind says."""
    crop_kind: Literal["absolute", "absolute_range", "relative", "relative_range"] = "absolute"
    """Width and height in pixels; least and greatest side; width and height as shares; least height and width as
    shares. The names and meanings are MMDetection's."""
    show_above: float = pydantic.Field(default=0.3, ge=0, le=1)
    """Drawings show objects with at least this score."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Schedule:
    """How the learning rate moves over a phase: linear warm-up times a decay."""

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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rule:
    """What one part of the model gets. The first rule that matches a parameter counts."""

    pattern: str
    """A path or shell-style pattern: fc, layer[34], *.bn1, *; or @head, the layers that put out the classes."""
    rate: float = pydantic.Field(default=1.0, ge=0)
    """Multiplies the learning rate."""
    decay: float = pydantic.Field(default=1.0, ge=0)
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
    rate: float = pydantic.Field(default=1.0, gt=0)
    """Multiplies the optimizer's learning rate."""
    rules: tuple[Rule, ...] = (Rule(pattern="*"),)
    """Ordered; every parameter must be matched by one, and every rule must match something."""
    schedule: Schedule = Schedule()
    """How the rate moves."""
    batch_norm: Literal["batch", "running"] = "batch"
    """Normalise with the batch's statistics and track them, or use and keep the running ones everywhere."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    """The optimizer, with PyTorch's meaning of every number."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """adam couples the weight decay to the gradient, adamw does not; sgd couples it."""
    learning_rate: float = pydantic.Field(default=0.01, gt=0)
    """The rate that phases, rules and schedules multiply."""
    momentum: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """sgd: momentum."""
    nesterov: bool = False
    """sgd: Nesterov's form of momentum."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adam, adamw: decay of the two moments."""
    eps: float = pydantic.Field(default=1e-8, gt=0)
    """adam, adamw: added to the root of the second moment."""
    weight_decay: float = pydantic.Field(default=0.0, ge=0)
    """Weight decay of parameters that no rule changes it for."""
    decay_bias_and_norm: bool = True
    """Whether one-dimensional parameters (biases, normalisation) decay too, as in PyTorch."""
    clip_norm: float | None = None
    """Scale the gradient of all trained parameters down to this global norm."""
    accumulate: int = pydantic.Field(default=1, ge=1)
    """Parts in which a batch goes through the model; the step is taken on their mean gradient."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """A whole run."""

    model: Model = Model()
    pretrained: Pretrained = Pretrained()
    data: Data = Data()
    images: Images = Images()
    detection: Detection = Detection()
    optimizer: Optimizer = Optimizer()
    phases: tuple[Phase, ...] = (Phase(),)
    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the arithmetic; parameters and normalisation stay float32."""
    fsdp: bool = False
    """Shard parameters and optimizer state over the devices instead of copying them to each."""
    seed: int = 0
    """Decides the order of examples, augmentation, dropout and initial values."""
    log_every: int = pydantic.Field(default=10, ge=1)
    """Steps between two lines of metrics."""
    checkpoint_every: int = pydantic.Field(default=0, ge=0)
    """Steps between two checkpoints, besides one after each epoch; 0 for none."""


ADAPTER = pydantic.TypeAdapter(Config)


def load(path: Path) -> Config:
    """The `config` that a Python file binds. Files beside `configs/` may import each other as `configs.NAME`.

    Raises:
        UserError: no such file, it does not bind a `Config`, or a field in it is unknown or of the wrong type.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.py")], n=1)
        raise UserError(
            f"There is no configuration file {path}{f'; did you mean {path.parent / near[0]}?' if near else '.'}"
        )
    # A configuration imports the one it inherits from as `configs.NAME`, wherever the command is typed.
    sys.path.insert(0, str(path.resolve().parent.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"configs.{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from error
    except (SyntaxError, ImportError, NameError, TypeError) as error:
        raise UserError(f"{path} is not a valid configuration: {type(error).__name__}: {error}.") from error
    finally:
        sys.path.pop(0)
    config = getattr(module, "config", None)
    if not isinstance(config, Config):
        raise UserError(f"{path} must bind `config = Config(...)`; it binds {type(config).__name__}.")
    return config


def replace(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a configuration with some fields changed: `replace(base, {"optimizer.momentum": 0.9})`.

    Keys are dotted paths; elements of tuples go by their index (`phases.0.epochs`).

    Raises:
        UserError: a field is unknown (the nearest name is given) or its value is of the wrong type.
    """
    for path, value in changes.items():
        config = _replace_one(config, path, path.split("."), value)
    return config


def _replace_one(node: Any, path: str, parts: list[str], value: Any) -> Any:
    name, rest = parts[0], parts[1:]
    if isinstance(node, tuple):
        if not name.isdigit() or int(name) >= len(node):
            raise UserError(f"{path}: there are {len(node)} elements, numbered from 0; {name!r} is none of them.")
        item = _replace_one(node[int(name)], path, rest, value) if rest else value
        return (*node[: int(name)], item, *node[int(name) + 1 :])
    if not dataclasses.is_dataclass(node):
        raise UserError(f"{path}: a plain value has no field {name!r}.")
    names = [field.name for field in dataclasses.fields(node)]
    if name not in names:
        raise UserError(f"{path}: there is no field {name!r}; {_nearest(name, names)}.")
    new = _replace_one(getattr(node, name), path, rest, value) if rest else value
    try:
        return dataclasses.replace(node, **{name: new})  # type: ignore[type-var]
    except pydantic.ValidationError as error:
        raise UserError(explain(error)) from error


def explain(error: pydantic.ValidationError) -> str:
    """What is wrong with the values of a configuration, in a sentence a field."""
    lines = []
    for problem in error.errors():
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            # The name of the innermost class that was being built is all that pydantic tells.
            lines.append(f"unknown field {where!r} in {error.title}; {_nearest(where, _fields_of(error.title))}")
        else:
            lines.append(f"{error.title}.{where}: {problem['msg']}, found {problem['input']!r}")
    return "; ".join(lines) + "."


def _fields_of(title: str) -> list[str]:
    found = globals().get(title)
    return [field.name for field in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(names)}"


def to_json(config: Config) -> str:
    """The configuration as JSON text, every field included."""
    return ADAPTER.dump_json(config, indent=2).decode() + "\n"


def from_json(text: str, where: Path) -> Config:
    """The inverse of `to_json`.

    Raises:
        UserError: `text` (from the file `where`) is not such a configuration.
    """
    try:
        return ADAPTER.validate_json(text)
    except pydantic.ValidationError as error:
        raise UserError(f"{where} is not a configuration of this version: {explain(error)}") from error


def differences(one: Config, other: Config) -> list[str]:
    """The fields in which two configurations differ, as dotted paths with both values."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if dataclasses.is_dataclass(value):
            items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        elif isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
            items = [(str(index), item) for index, item in enumerate(value)]
        else:
            return {path: value}
        return {key: leaf for name, item in items for key, leaf in flat(item, f"{path}.{name}".strip(".")).items()}

    first, second = flat(one, ""), flat(other, "")
    return [
        f"{path}: {first.get(path, 'not there')} there, {second.get(path, 'not there')} here"
        for path in first | second
        if first.get(path) != second.get(path)
    ]
