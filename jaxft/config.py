"""What a run is: frozen dataclasses of plain values, from a Python file and the command line, saved as JSON.

A configuration file binds `config`. Inheritance is an import and a `replace`:

    from configs.hotdog import config as base
    config = replace(base, {"optimizer.learning_rate": 0.005})
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import pydantic
import tyro
from pydantic.dataclasses import dataclass

from jaxft.adapters import Lora
from jaxft.config_file import execute, find
from jaxft.edits import KINDS, Edit
from jaxft.errors import UserError
from jaxft.fields import STRICT, Check, differences, explain, field_names, replace
from jaxft.hardware import Hardware
from jaxft.initialization import Checkpoint, Drawn, Initialize
from jaxft.network import Distillation, FeaturePair, Model, Pretrained
from jaxft.optimization import EarlyStopping, Ema, Optimizer, Phase, Rule, Schedule
from jaxft.parts import Part, class_range
from jaxft.precision import Precision, dtype_of
from jaxft.schedulers import Scheduler
from jaxft.tasks import Classification, Detection, Images, TaskFields

__all__ = [
    "Classification",
    "Config",
    "Data",
    "Detection",
    "Distillation",
    "EarlyStopping",
    "Ema",
    "FeaturePair",
    "Images",
    "Initialize",
    "Lora",
    "Model",
    "Optimizer",
    "Phase",
    "Pretrained",
    "Rule",
    "Schedule",
    "differences",
    "from_json",
    "load",
    "replace",
    "to_json",
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Which examples, and how many at a time."""

    source: str = "folder"
    """Classification: folder (a folder a class, root/train/CLASS/*.jpg), tfds (TensorFlow Datasets) or digits
    (scikit-learn's). Detection: coco (COCO JSON) or voc (PASCAL VOC: root/Annotations, root/ImageSets/Main,
    root/JPEGImages). Regression and multi-label classification: csv (a CSV file of photos and targets) or shapes
    (generated pictures)."""
    root: str = "data"
    """The folder with the splits (folder) or with everything (coco, voc, csv), or TFDS' data_dir (tfds)."""
    annotation_file: str = ""
    """coco, csv: a split's file, below root; empty for annotations/instances_{split}.json (coco), {split}.csv (csv)."""
    image_folder: str = "{split}"
    """coco, csv: the folder of a split's photos, below root."""
    classes: tuple[str, ...] = ()
    """coco, voc, csv: the classes or targets to learn, in this order; empty for all that the annotations name. coco:
    0:40 stands for the file's first 40 categories by their ids, 40: for the others."""
    single_class: str | None = None
    """coco, voc: the name of one class that objects of all `classes` count as; what an RPN alone needs."""
    url: str | None = None
    """A zip archive with the folder, downloaded to the cache where root does not exist."""
    sha1: str | None = None
    """The archive's SHA-1."""
    name: str | None = None
    """The TFDS data set's name."""
    splits: Annotated[dict[str, Part], tyro.conf.Suppress] = dataclasses.field(default_factory=dict)
    """coco, voc: splits by name that say their files themselves, in the place of annotation_file and image_folder."""
    train: str = "train"
    """The split to train on."""
    validation: str | None = "test"
    """The split to evaluate on; None trains without any evaluation, so that no model is the best."""
    holdout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Evaluate on this share of the training split instead of the validation split (to choose settings)."""
    folds: int = pydantic.Field(default=0, ge=0)
    """Cut the training split into so many parts, train on all but one and evaluate on that, for cross-validation; 0
    does not."""
    fold: int = pydantic.Field(default=0, ge=0)
    """folds: the part to evaluate on, from 0."""
    subset: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Train on this share of the examples, of every class in proportion; a smaller share is a part of a larger one."""
    balance: Literal["none", "oversample"] = "none"
    """oversample repeats the examples of rarer classes until every class has as many as the largest."""
    check: Check = "full"
    """What happens to every photo before the first step: full decodes it, unless it was found whole before (the cache
    keeps its size and time), headers reads its width and height alone, none opens nothing."""
    views: int = pydantic.Field(default=0, ge=0)
    """In how many ways each example is augmented: the epochs take one after the other, over and over; 0 augments anew
    in every epoch."""
    shuffle: bool = True
    """Train in another order each epoch; otherwise in that of the files, over and over."""
    batch_size: int = pydantic.Field(default=32, ge=1)
    """Examples a step, over all devices and hosts."""
    batch_per_device: bool = False
    """Let batch_size count the examples of one device in one part of `optimizer.accumulate`, as MMDetection does."""
    workers: int = pydantic.Field(default=0, ge=0)
    """Processes that decode photos; 0 decodes in threads of the main process."""

    def __post_init__(self) -> None:
        if self.folds == 1 or self.fold >= max(self.folds, 1):
            raise ValueError(f"fold is {self.fold} of {self.folds} folds; there are at least 2, counted from 0")
        if self.folds and self.holdout:
            raise ValueError("folds and holdout both say what is held out; leave one of them at 0")

    @property
    def class_count(self) -> int | None:
        """How many `classes` are; None where it is empty, or a range has an end that the file knows alone."""
        lengths = [
            1 if part is None else (part.stop or 0) - (part.start or 0) for part in map(class_range, self.classes)
        ]
        return sum(lengths) if lengths and min(lengths) > 0 else None

    @property
    def holds_out(self) -> bool:
        """Whether a part of the training split is evaluated on, in the place of a validation split."""
        return bool(self.holdout or self.folds)


Report = Literal["full", "photos", "plain"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """A whole run."""

    task: Annotated[TaskFields, pydantic.Field(discriminator="kind")] = Classification()
    model: Model = Model()
    pretrained: Pretrained = Pretrained()
    distillation: Distillation = Distillation()
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    phases: tuple[Phase, ...] = pydantic.Field(default=(Phase(),), min_length=1)
    ema: Ema = Ema()
    early_stopping: EarlyStopping = EarlyStopping()
    hardware: Hardware = Hardware()
    precision: Precision = "float32"
    """How exactly the model computes. float32: as it says, on TPUs (six passes of bfloat16) and GPUs, too.
    tensorfloat32: matrix products and convolutions round what they multiply, to 11 significant bits on GPUs that can;
    three passes of bfloat16 on a TPU, float32 on a CPU. bfloat16: activations and kernels have 8 significant bits.
    Parameters, optimizer state, sums, normalisation, softmax, losses and boxes are float32 in all three."""
    stored_features: bool = False
    """Compute what lies in front of all that trains once for each of the `data.views`, keep it in the cache folder, and
    train from that; for phases that all train the same parts."""
    auto_scale_lr: bool = False
    """Multiply the learning rate by the examples of a step over optimizer.base_batch_size, for which it is meant."""
    seed: int = pydantic.Field(default=0, ge=0, lt=2**32)
    """Decides the order of examples, augmentation, dropout and initial values."""
    log_every: int = pydantic.Field(default=10, ge=1)
    """Steps between two lines of metrics."""
    checkpoint_every: int = pydantic.Field(default=0, ge=0)
    """Steps between two checkpoints, besides one after each epoch and before each evaluation; 0 for none."""
    keep_checkpoints: int = pydantic.Field(default=1, ge=1)
    """How many of the last checkpoints stay, besides the best one; `--checkpoint STEP` opens any of them."""
    evaluate_every: int = pydantic.Field(default=1, ge=1)
    """Evaluate at each multiple of this many epochs, or steps, and at the end."""
    evaluate_unit: Literal["epoch", "step"] = "epoch"
    """What evaluate_every and evaluate_from count."""
    evaluate_from: int = pydantic.Field(default=1, ge=1)
    """The first epoch, or step, after which an evaluation may come; the end of the run is always evaluated."""
    report: Literal["none"] | Report = "full"
    """The page that the command writes at the end of a run: full (with what a classifier looks at), photos (without
    that), plain (without photos), none."""
    pictures: bool = True
    """Draw what the model is fed, learning curves and predictions into the run directory's `pictures`."""
    histograms: int = pydantic.Field(default=0, ge=0)
    """Steps between two histograms of the parameters and the gradients of each group, in TensorBoard; 0 for none. Each
    takes a gradient of its own."""
    tracker: Literal["none", "wandb", "mlflow"] = "none"
    """Report to Weights & Biases or MLflow, too, by their own package (pip install 'jaxft[wandb]' or 'jaxft[mlflow]'),
    which also says where to (WANDB_MODE=offline, MLFLOW_TRACKING_URI, ...)."""
    best_metric: str | None = None
    """The metric that chooses the best model, with a leading - where smaller is better; None for the task's own."""

    def __post_init__(self) -> None:
        checkpoints = [rule.how for rule in self.model.init if isinstance(rule.how, Checkpoint)]
        if not checkpoints:
            return
        if len(checkpoints) > 1 or self.pretrained.source is not None or self.pretrained.prefix:
            raise ValueError("model.init and pretrained.source name more than one checkpoint; leave all but one out")
        source, start = checkpoints[0].source, checkpoints[0].start
        drawn = tuple(rule for rule in self.model.init if rule.how is not checkpoints[0])
        # One place says where weights come from, before anybody reads it.
        object.__setattr__(self, "pretrained", dataclasses.replace(self.pretrained, source=source, prefix=start))
        object.__setattr__(self, "model", dataclasses.replace(self.model, init=drawn))

    @property
    def dtype(self) -> str:
        """The type of the model's arithmetic, float32 or bfloat16."""
        return dtype_of(self.precision)


def completed(config: Config) -> Config:
    """The configuration with what the task's fields say of other sections; first weights that are named stay."""
    changes = config.task.implied()
    if config.pretrained != Pretrained():
        changes = {path: value for path, value in changes.items() if not path.startswith("pretrained.")}
    return replace(config, changes)


ADAPTER = pydantic.TypeAdapter(Config)
MISTAKES = (
    *(SyntaxError, ImportError, NameError, TypeError, AttributeError, LookupError, ValueError, ArithmeticError),
    OSError,
)
"""What a mistake in a configuration file raises when Python runs it."""


class Loaded(NamedTuple):
    """What a file binds, and what it was made from: of the configurations that the file binds before `config`, or
    imports by another name, the one that is most like it; where there is none, itself."""

    config: Config
    parent: Config


def load(name: str | Path) -> Config:
    """The `config` that a Python file binds: one's own, or one that is shipped, `jaxft:hotdog`.

    The file may import others as `configs.NAME`; see `jaxft.config_file`.

    Raises:
        UserError: no such file, it does not bind a `Config`, or a field in it is unknown or of the wrong type.
    """
    return load_with_parent(name).config


def load_with_parent(name: str | Path) -> Loaded:
    """As `load`."""
    path = find(name)
    try:
        module = execute(path)
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {explain(error, _fields())}") from error
    except MISTAKES as error:
        raise UserError(f"{path} is not a valid configuration: {type(error).__name__}: {error}.") from error
    config = getattr(module, "config", None)
    if not isinstance(config, Config):
        raise UserError(f"{path} must bind `config = Config(...)`; it binds {type(config).__name__}.")
    before = itertools.takewhile(lambda name: name != "config", vars(module))
    others = [value for name in before if isinstance(value := getattr(module, name), Config)]
    return Loaded(config, min(others, key=lambda other: len(differences(other, config)), default=config))


def _fields() -> dict[str, list[str]]:
    """The fields of every class of a configuration."""
    run = (
        Config,
        Model,
        Pretrained,
        FeaturePair,
        Distillation,
        Data,
        Optimizer,
        Phase,
        Rule,
        Schedule,
        Ema,
        EarlyStopping,
        Hardware,
    )
    kinds = (*run, Images, Lora, *get_args(TaskFields), *get_args(get_args(Scheduler)[0]), Initialize, *get_args(Drawn))
    kinds += (*get_args(get_args(Edit)[0]), *KINDS)
    return {kind.__name__: field_names(kind) for kind in kinds}


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
        raise UserError(f"{where} is not a configuration of this version: {explain(error, _fields())}") from error
