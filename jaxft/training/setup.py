"""Everything that a run knows before its first array: data, abstract model, layout, stages; and the cheap checks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import Array

from converters import Ledger
from jaxft.activity import doing
from jaxft.adapters.low_rank import check_trained
from jaxft.config import Config, Pretrained, completed
from jaxft.data.dataset import Dataset
from jaxft.data.epoch_order import steps_per_epoch
from jaxft.data.loader import Batches, train_batches
from jaxft.data.stored import Stored
from jaxft.errors import UserError
from jaxft.fields import flat
from jaxft.models.edited import edited
from jaxft.models.paths import values, walk
from jaxft.reporting.progress import Course
from jaxft.run import Names
from jaxft.tasks.task import Metric, Task
from jaxft.training.ema import ema_momentum
from jaxft.training.intervals import evaluation_due
from jaxft.training.judge import check_judging, named_metric
from jaxft.training.layout import Layout, device_layout
from jaxft.training.model import ModelSource, abstract_for, first_values, head_named, load_weights
from jaxft.training.optim import set_modes
from jaxft.training.own import NOTHING_OWN, TEACHER, Own, with_metrics
from jaxft.training.stages import Stage, lay_out
from jaxft.training.state import TrainState, abstract_state, initial_state
from jaxft.training.step import (
    ArrayLoss,
    Batch,
    LossFunction,
    Step,
    StepInputs,
    Teaching,
    key_data,
    train_step,
)
from jaxft.training.teaching import Teacher, check_taught, taught, teacher_of
from jaxft.training.trials import block_depths, try_loss, try_out
from jaxft.training.warm_start import with_file


class StoredPrediction(NamedTuple):
    """What predicts from stored features, (arrays, batch) -> predictions, and the validation split as features."""

    function: Callable[[Mapping[str, Array], Batch], Mapping[str, Array]]
    examples: Stored


@dataclass(frozen=True)
class Setup:
    """A run before its first array.

    Attributes:
        written: the configuration as it is saved; `config` has the paths of the head in the place of `@head`.
        validation: None where nothing is evaluated.
        model: abstract, but for what `load_weights` has filled, and a user's own.
        through, prediction: of a run from stored features; see `jaxft.training.features`.
        teacher, teaching: of a run with a teacher, and its arrays, which are abstract before `with_teacher`;
            `teacher_word` tells them from others after that.
    """

    written: Config
    config: Config
    task: Task
    loss: LossFunction
    train: Dataset
    validation: Dataset | None
    source: ModelSource
    model: nnx.Module
    stages: list[Stage]
    layout: Layout
    steps_per_epoch: int
    through: Callable[[ArrayLoss], ArrayLoss] = lambda loss: loss
    prediction: StoredPrediction | None = None
    own: Own = NOTHING_OWN
    teacher: Teacher | None = None
    teaching: Teaching | None = None
    teacher_word: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the model's outputs."""
        return self.train.classes

    @cached_property
    def shapes(self) -> int:
        """How many shapes the training batches have."""
        return len(np.unique(self.train.buckets))

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.stages[-1].last

    @property
    def datasets(self) -> list[Dataset]:
        """The training split, and the validation split where there is one."""
        return [dataset for dataset in (self.train, self.validation) if dataset is not None]

    @property
    def examples(self) -> Names:
        """The examples of both splits, to be compared when the run goes on."""
        validation = () if self.validation is None else self.validation.names()
        return {"train": list(self.train.names()), "validation": list(validation)}

    @property
    def best_metric(self) -> Metric:
        """The metric that decides which model is best."""
        named = self.config.best_metric
        return self.task.primary_metric if named is None else named_metric(named)

    @property
    def course(self) -> Course:
        """What a reporter knows of the run."""
        phases, config = tuple(stage.last for stage in self.stages), self.config
        return Course(self.steps_per_epoch, phases, config.pictures, config.tracker, flat(self.written))

    def evaluates_after(self, step: int) -> bool:
        """Whether the model is evaluated after so many steps of the whole run."""
        there = self.validation is not None
        return there and evaluation_due(self.config, step, self.steps_per_epoch, self.total_steps)

    @property
    def edits(self) -> list[str]:
        """What `model.edits` did to the model, a line each."""
        record = edited(self.model)
        return [] if record is None else [f"model.edits: {line}" for line in record.lines]

    @property
    def names(self) -> dict[str, str]:
        """What the configuration does not say: things of the user's own, and which weights the teacher has."""
        return self.own.names | ({TEACHER: self.teacher_word} if self.teacher_word else {})

    @property
    def distilled(self) -> list[str]:
        """What is learned from a teacher, a line."""
        return [] if self.teacher is None else [self.teacher.said()]

    def load_weights(self) -> Ledger | None:
        """Fills the model from its configured checkpoint, on the host; see `jaxft.training.model.load_weights`."""
        with doing(f"loading {self.config.pretrained.source or 'no weights'}"):
            return load_weights(self.model, self.source, self.pretrained, self.classes)

    @cached_property
    def pretrained(self) -> Pretrained:
        """Where the first weights come from, as a file where it is another run."""
        return with_file(self.config.pretrained)

    def first_state(self, stage: Stage, ledger: Ledger | None) -> TrainState:
        """The state that a run starts from, its arrays where they belong."""
        with doing("drawing initial values"):
            arrays = first_values(self.model, self.source, self.pretrained, self.classes, ledger, self.layout)
            params, stats = self.split(arrays)
            for _, _, _, variable in walk(self.model):  # the values are in the state now, and need no second place
                variable.set_value(jax.ShapeDtypeStruct(variable.shape, variable.dtype))
            return initial_state(stage, params, stats, self.layout, **self.averages)

    def training_step(self, stage: Stage) -> Step:
        """The function that a stage repeats, to be compiled; see `jaxft.training.step.train_step`."""
        config = self.config
        parts, precision = config.optimizer.accumulate, config.precision
        return train_step(
            self.template(stage),
            self.loss,
            stage.groups.trained,
            stage.chain,
            parts=parts,
            precision=precision,
            gathered=self.layout.gathered,
            rematerialize=config.hardware.rematerialize,
            through=self.through,
        )

    def inputs(self, stage: Stage, step: int) -> StepInputs:
        """What the training step takes besides state and batch, at a step of the whole run."""
        config = self.config
        return StepInputs(key_data(config.seed), stage.numbers(step), ema_momentum(config.ema, step), self.teaching)

    def with_teacher(self) -> "Setup":
        """The same with the teacher's arrays, where there is one.

        Raises:
            UserError: its weights cannot be read, or do not fit.
        """
        if self.teacher is None:
            return self
        with doing(f"loading the teacher {self.teacher.fields.teacher}"):
            teaching, word = self.teacher.load(self.layout)
            return replace(self, teaching=teaching, teacher_word=word)

    def template(self, stage: Stage) -> nnx.Module:
        """The model in the training modes of a stage, abstract."""
        template = nnx.clone(self.model)
        set_modes(template, stage.groups, stage.batch_norm)
        return template

    def batches(self, start_step: int = 0) -> Batches:
        """This process's share of the training batches, from a step of the whole run on."""
        data = self.config.data
        return train_batches(
            self.train,
            batch_size=data.batch_size,
            seed=self.config.seed,
            shuffle=data.shuffle,
            start_step=start_step,
            workers=0 if isinstance(self.train, Stored) else data.workers,
            positions=self.layout.positions(data.batch_size),
            views=data.views,
        )

    def progress(self, step: int) -> str:
        """Where a run goes on, in a sentence."""
        epochs = -(-self.total_steps // self.steps_per_epoch)
        done = step // self.steps_per_epoch
        return f"Going on from step {step} of {self.total_steps} (epoch {done} of {epochs} is done)."

    @property
    def averages(self) -> dict[str, bool]:
        """Of what a moving average is kept; see `jaxft.training.state.initial_state`."""
        return {"ema": self.config.ema.kept, "buffers": self.config.ema.buffers}

    def abstract_state(self, stage: Stage) -> TrainState:
        """The shapes, types and shardings of the state during a stage."""
        params, stats = self.split(values(self.model))
        return self.layout.abstract(abstract_state(stage, params, stats, **self.averages))

    def trained_numbers(self, stage: Stage) -> int:
        """How many numbers a stage trains."""
        parameters = values(self.model, nnx.Param)
        return sum(int(np.prod(parameters[path].shape)) for path in stage.groups.trained)

    def split(self, arrays: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters and statistics of a model's arrays by dotted path."""
        parameters = values(self.model, nnx.Param).keys()
        return (
            {path: array for path, array in arrays.items() if path in parameters},
            {path: array for path, array in arrays.items() if path not in parameters},
        )


def set_up(
    config: Config,
    own: Own = NOTHING_OWN,
    *,
    task: Task | None = None,
    datasets: tuple[Dataset, Dataset | None] | None = None,
    devices: Sequence[jax.Device] | None = None,
    copies: bool = False,
    own_names: bool = True,
) -> Setup:
    """Opens the data as far as their lists, and lays everything out for an abstract model.

    Args:
        task, datasets: the configured task and its datasets, where they are made already.
        devices, copies: as of `jaxft.training.layout.device_layout`.
        own_names: whether the names of the classes are the data's own, and not assumed.

    Raises:
        UserError: whatever can be known to be wrong by now.
    """
    given, config = config, completed(config)
    task, source = task or config.task.task(config.dtype), ModelSource(config, own.model)
    source.check()
    layout = device_layout(
        config.data.batch_size,
        config.optimizer.accumulate,
        fsdp=config.hardware.fsdp,
        devices=devices,
        copies=copies,
    )
    with doing("listing the data"):
        train, validation = own.datasets or datasets or task.datasets(config.data, config.seed)
    if validation is not None and train.classes != validation.classes:
        raise UserError(f"The training split has the classes {train.classes}, the other one {validation.classes}.")
    check_judging(config, task.metric_names(train.classes) if validation is not None else None)
    if config.data.batch_size > len(train):
        raise UserError(
            f"A batch of {config.data.batch_size} is larger than the {len(train)} training examples; "
            "lower --data.batch-size."
        )
    model = abstract_for(source, task, train.classes)
    named = head_named(source)
    steps = steps_per_epoch(train.buckets, config.data.batch_size)
    shapes = {path: tuple(value.shape) for path, value in values(model, nnx.Param).items()}
    deep = block_depths(task, model, train) if config.optimizer.layer_decay != 1 else {}
    if deep and len(set(deep.values())) == 1:
        raise UserError(
            f"optimizer.layer_decay is {config.optimizer.layer_decay}, but the {type(model).__name__} has no blocks to "
            "count; set it to 1, and give parts rates of their own by rules."
        )
    stages = lay_out(named, shapes, steps, deep)
    check_trained(frozenset().union(*(stage.groups.trained for stage in stages)), model)
    if own.model is not None or own.datasets is not None:
        if validation is not None:
            try_out(task, model, validation, config.precision)
        if own.loss is None:
            try_loss(task, model, train, config.dtype)
    loss = task.loss if own.loss is None else with_metrics(own.loss)
    setup = Setup(given, named, task, loss, train, validation, source, model, stages, layout, steps, own=own)
    return _taught(setup, named=own_names)


def _taught(setup: Setup, *, named: bool) -> Setup:
    """The same with the teacher of the configuration, if there is one, and the loss that goes with it."""
    config, layout = setup.config, setup.layout
    teacher = teacher_of(config, setup.task, setup.model, setup.classes, named=named)
    if teacher is None:
        return setup
    if setup.own.loss is not None:
        raise UserError(
            "distillation.teacher adds to the task's own loss, but yours is your own; call your teacher there, or "
            "leave distillation out."
        )
    loss = taught(setup.task, teacher, precision=config.precision, gathered=layout.gathered)
    teaching = teacher.abstract(layout)
    setup = replace(setup, loss=loss, teacher=teacher, teaching=teaching)
    at_once = config.data.batch_size // config.optimizer.accumulate
    check_taught(
        loss,
        setup.template(setup.stages[0]),
        teaching,
        setup.train,
        layout,
        at_once,
        rematerialize=config.hardware.rematerialize,
    )
    return setup
