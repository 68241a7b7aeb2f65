"""A teacher in training: a second model, frozen and in evaluation, whose outputs are learned beside the labels.

Its arrays are an input of the compiled step, laid out as the state is. They are in no state, so that no optimizer,
checkpoint, average or export has them; a run that goes on loads them again.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from converters import load_pretrained
from converters.files import read_classes, read_metadata
from converters.naming import facts
from converters.sources import TORCHVISION, locate
from jaxft.config import Config, Distillation, Lora, Model, Pretrained
from jaxft.data.dataset import Dataset
from jaxft.errors import UserError
from jaxft.fields import replace
from jaxft.models import abstract_model
from jaxft.models.layers.rematerialization import rematerializing
from jaxft.models.paths import values
from jaxft.precision import dtype_of
from jaxft.run import RunDirectory, named_run
from jaxft.surgery.features import Point, create_feature_extractor
from jaxft.surgery.tracing import watched
from jaxft.tasks import TaskFields
from jaxft.tasks.task import Task
from jaxft.training.compared import Outputs, feature_error
from jaxft.training.finished import open_run
from jaxft.training.layout import Layout, context_of, on_host
from jaxft.training.model import ModelSource
from jaxft.training.step import Arrays, Batch, Gathered, LossFunction, Teaching, computing, key_data, reseed


class Known(NamedTuple):
    """What is known of a teacher before its weights are read.

    Attributes:
        classes: the names of its classes in order; empty where nobody says them.
        number: how many there are; None for as many as its published weights have.
        normalization: mean, standard deviation and order of the channels that it was trained with.
    """

    model: Model
    classes: tuple[str, ...]
    number: int | None
    normalization: tuple[Any, ...] | None


@dataclass(frozen=True)
class Teacher:
    """The teacher of a run; `model` is abstract, in evaluation mode. `pairs` are the layers that are compared, of the
    model that trains and of the teacher."""

    fields: Distillation
    model: nnx.Module
    pairs: tuple[tuple[Point, Point], ...]

    @property
    def numbers(self) -> dict[str, Any]:
        """What of the fields is an input of the step, so that another number compiles nothing."""
        fields = self.fields
        return {
            "temperature": fields.temperature,
            "weight": fields.weight,
            "task_weight": fields.task_weight,
            "features": tuple(pair.weight for pair in fields.features),
        }

    def abstract(self, layout: Layout) -> Teaching:
        """The inputs of the step as shapes and shardings."""
        return Teaching(layout.abstract(values(self.model)), self.numbers)

    def load(self, layout: Layout) -> tuple[Teaching, str]:
        """The inputs of the step, where they belong, and a word that tells the arrays from others.

        Raises:
            UserError: the source cannot be read, or does not fit.
        """
        source = self.fields.teacher
        with on_host():
            if (run := named_run(source)) is not None:
                arrays = values(open_run(*run).model)
            else:
                model = nnx.clone(self.model)
                load_pretrained(model, str(source), original=None)
                arrays = values(model)
            if lacking := [path for path, array in arrays.items() if isinstance(array, jax.ShapeDtypeStruct)]:
                raise UserError(
                    f"{source} lacks {', '.join(lacking[:5])}{', ...' * (len(lacking) > 5)}, so that its model would "
                    "say nothing of worth; take weights of the edited model."
                )
        host = {path: np.asarray(array) for path, array in arrays.items()}
        word = 0
        for path in sorted(host):
            word = zlib.crc32(np.ascontiguousarray(host[path]), zlib.crc32(path.encode(), word))
        return Teaching(layout.place(host), self.numbers), f"{word:08x}"

    def said(self) -> str:
        """What is learned from it, in a sentence."""
        fields = self.fields
        numbers = sum(int(np.prod(leaf.shape)) for leaf in values(self.model, nnx.Param).values())
        what = [f"its outputs at temperature {fields.temperature:g}, weight {fields.weight:g}"] if fields.weight else []
        what += [
            f"{pair.teacher or pair.student} by {pair.student}, weight {pair.weight:g}" for pair in fields.features
        ]
        return (
            f"distillation from {fields.teacher}, a {type(self.model).__name__} of {numbers:,} parameters: "
            f"{'; '.join(what)}; the task's own loss has the weight {fields.task_weight:g}"
        )


def teacher_of(
    config: Config, task: Task, student: nnx.Module, classes: tuple[str, ...], *, named: bool = True
) -> Teacher | None:
    """The teacher that a configuration names; None where it names none.

    Args:
        student: the model that trains, abstract.
        classes: of the data.
        named: whether their names are the data's own, and not assumed.

    Raises:
        UserError: it is not described, does not do the task, or does not fit the student.
    """
    fields = config.distillation
    if fields.teacher is None:
        return None
    expected = classes[: fields.known_classes or None]
    known = _known(config, expected)
    source = ModelSource(replace(config, {"model": known.model, "pretrained": Pretrained()}))
    source.check()
    plain = known.number is None and not known.model.edits
    count = len(expected) if known.number is None else known.number
    model = abstract_model(known.model.name, None, **known.model.options) if plain else source.abstract(count)
    if not fields.known_classes:
        task.check_model(model, expected)
    _check_alike(fields, known if named else known._replace(classes=()), task, expected)
    model.eval()
    size = task.preprocessing().size
    ours = _points(student, dict.fromkeys(pair.student for pair in fields.features), size)
    theirs = _points(model, dict.fromkeys(pair.teacher or pair.student for pair in fields.features), size)
    pairs = tuple((ours[pair.student], theirs[pair.teacher or pair.student]) for pair in fields.features)
    return Teacher(fields, model, pairs)


def _known(config: Config, expected: tuple[str, ...]) -> Known:
    """What a teacher's source says of it, or the configuration in its place; of how many classes it is where nobody
    says them, as `expected`."""
    fields = config.distillation
    told, source = fields.teacher_model, str(fields.teacher)
    if (run := named_run(source)) is not None:
        directory = RunDirectory.at(run[0])
        settings = directory.check()
        if told is not None or "model" in directory.own():
            raise UserError(
                f"distillation.teacher is {source}, a run, which says itself what its model is; leave "
                "distillation.teacher_model out, and take a run of a configured model."
            )
        _check_task(source, settings.task, config.task)
        normalization = settings.task.task(settings.dtype).preprocessing().plain()
        return Known(settings.model, directory.classes(), len(directory.classes()), _normalization(normalization))
    if source.startswith(TORCHVISION):
        model = told or Model(name=source.removeprefix(TORCHVISION).partition("/")[0])
        return Known(model, (), model.num_classes, None)
    grown = replace(config.model, {"num_classes": None, "init": (), "lora": Lora()}) if fields.known_classes else None
    found = told or _described(source) or grown
    if found is None:
        raise UserError(
            f"{source} does not say of which model its weights are; say it with distillation.teacher_model = "
            "Model(name=...)."
        )
    file = locate(source.partition("#")[0])
    names = read_classes(file)
    if grown is not None and len(names) != len(expected):
        names = ()  # MMDetection's checkpoints have the names of all of a data set's classes, however many are learned
    counted = len(names) or found.num_classes or len(expected)
    return Known(found, names, counted, _normalization(read_metadata(file).get("preprocessing")))


def _check_task(source: str, theirs: TaskFields, ours: TaskFields) -> None:
    """Raises a UserError where a run's outputs are of another task, or in other units."""
    if theirs.kind != ours.kind:
        raise UserError(f"{source} was trained for {theirs.kind}, but the task is {ours.kind}; take another teacher.")
    for name in ("target_mean", "target_std"):
        if (found := getattr(theirs, name, None)) != (expected := getattr(ours, name, None)):
            raise UserError(
                f"{source} was trained with task.{name} {found}, but the run's is {expected}, so that their outputs "
                "are in different units; give the task the teacher's."
            )


def _described(source: str) -> Model | None:
    """The model that the metadata of an export describe; None where they describe none."""
    said = facts(source, None)
    edits = tuple(edit for group in said.get("edits", ()) for edit in group)
    if isinstance(said.get("mmdet"), dict):
        return Model(mmdet=said["mmdet"], edits=edits)
    if not isinstance(said.get("name"), str):
        return None
    return Model(name=said["name"], options=said.get("options") or {}, edits=edits)


def _normalization(said: Any) -> tuple[Any, ...] | None:
    if not isinstance(said, Mapping) or not {"mean", "std"} <= said.keys():
        return None
    return tuple(said["mean"]), tuple(said["std"]), bool(said.get("bgr"))


def _check_alike(fields: Distillation, known: Known, task: Task, expected: tuple[str, ...]) -> None:
    """Raises a UserError where the teacher sees other pixels, or its outputs mean other classes."""
    ours = _normalization(task.preprocessing().plain())
    if known.normalization not in (None, ours):
        raise UserError(
            f"{fields.teacher} was trained on images normalized with (mean, std, bgr) {known.normalization}, but the "
            f"run's are {ours}, and both models see the same; give the task the teacher's."
        )
    if fields.weight and known.classes and known.classes != expected:
        first = "start with" if fields.known_classes else "have"
        raise UserError(
            f"{fields.teacher} knows the classes {_some(known.classes)}, but the data {first} {_some(expected)}; take "
            "a teacher of the same classes in the same order, or set distillation.weight to 0 and name features."
        )


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''} ({len(names)})"


def _points(model: nnx.Module, paths: Mapping[str, None], size: int | None) -> dict[str, Point]:
    """Which call of which layer each path means."""
    return dict(create_feature_extractor(model, list(paths), image_size=size).points) if paths else {}


def taught(task: Task, teacher: Teacher, *, precision: str, gathered: Gathered) -> LossFunction:
    """(model, batch, teaching) -> the loss of a run with a teacher, and its metrics: the task's, the weighted sum as
    `loss`, and its parts `task_loss`, `response_loss` and `feature_loss`, without their weights.

    Args:
        precision, gathered: as of `jaxft.training.step.train_step`.
    """
    response, pairs = teacher.fields.weight > 0, teacher.pairs
    own_points, other_points = ([pair[side] for pair in pairs] for side in (0, 1))

    def loss(model: nnx.Module, batch: Batch, teaching: Teaching) -> tuple[Array, Arrays]:
        numbers = teaching.numbers
        frozen = computing(teacher.model, teaching.arrays, dtype_of(precision), gathered)
        own, other = Outputs(own_points, "the model"), Outputs(other_points, "the teacher")
        student = watched(model, own) if pairs else model
        frozen = watched(frozen, other) if pairs else frozen
        found = task.taught(student, frozen, batch, numbers["temperature"] if response else None)
        metrics = found.metrics | {"task_loss": found.loss}
        total = numbers["task_weight"] * found.loss
        if response:
            total += numbers["weight"] * found.response
            metrics["response_loss"] = found.response
        if pairs:
            errors = [feature_error(own, one, other, two) for one, two in zip(own_points, other_points, strict=True)]
            total += sum(weight * error for weight, error in zip(numbers["features"], errors, strict=True))
            metrics["feature_loss"] = sum(errors, start=jnp.zeros((), total.dtype))
        return total, metrics | {"loss": total}

    return loss


def check_taught(
    loss: LossFunction,
    model: nnx.Module,
    teaching: Teaching,
    dataset: Dataset,
    layout: Layout,
    batch_size: int,
    *,
    rematerialize: bool = False,
) -> None:
    """Traces the loss of abstract models, so that what does not fit is said before anything is compiled.

    Args:
        model: the student in training mode, abstract.
        batch_size: the examples that go through the model at once.
        rematerialize: as of `jaxft.training.step.train_step`.

    Raises:
        UserError: outputs or features have different shapes, or features do not get out of a rematerialized block.
    """

    def traced(arrays: Mapping[str, Array], batch: Batch, key: Array, teaching: Teaching) -> Array:
        student = computing(model, arrays, "float32")
        reseed(student, jax.random.wrap_key_data(key))
        with rematerializing(rematerialize):
            return loss(student, batch, teaching)[0]

    batch = layout.abstract_batch(dataset.training(0, np.random.default_rng(0)), batch_size)
    arrays = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in values(model).items()}
    with context_of(batch):
        jax.eval_shape(traced, arrays, batch, key_data(0), teaching)
