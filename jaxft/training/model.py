"""From a configuration to an abstract model and its first values: a checkpoint's, and fresh ones for what is new."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from converters import Ledger, load_pretrained
from converters.carry import carry_classes, check_names
from converters.files import read_classes
from converters.sources import locate
from jaxft import config
from jaxft.adapters.low_rank import add_lora
from jaxft.errors import UserError
from jaxft.initialization.drawing import draws, initialize
from jaxft.models import HEAD, abstract_model, builder, check_options, class_layers, head_of, initial_values, made
from jaxft.models.layers import Linear
from jaxft.models.paths import values, walk
from jaxft.models.streams import initial_rngs
from jaxft.surgery.editing import apply, images_for, rngs_of
from jaxft.surgery.resolving import is_vector, resolve
from jaxft.surgery.steps import Step
from jaxft.tasks.task import Task
from jaxft.training.layout import ArrayDict, Layout, fetch, on_host
from jaxft.training.step import key_data
from jaxft.training.stopping import interruptible


@dataclass(frozen=True)
class ModelSource:
    """Where the model of a run comes from: a configuration, or a user's own model with its values."""

    settings: config.Config
    own: nnx.Module | None = None
    _resolved: list[tuple[Step, ...]] = field(default_factory=list, compare=False, repr=False)

    def check(self) -> None:
        """Looks whether there is such a model, before anything is known of the data.

        Raises:
            UserError: its name is not known, it has no such option, or something is said that is for another model.
        """
        if self.own is not None and self.settings.model.lora.rank:
            raise UserError(
                "model.lora adds to a configured model, but yours is your own; leave it out, and call "
                "jaxft.adapters.low_rank.add_lora on your model."
            )
        edits, edited = self.settings.model.edits, self.settings.pretrained.edited
        if edited is not None and not edits:
            raise UserError(
                f"pretrained.edited is {edited}, but there are no model.edits that a checkpoint could be from before "
                "or after; leave it out."
            )
        if self.own is not None and edits:
            raise UserError("model.edits are for a model by name; edit your own with jaxft.surgery before you give it.")
        if self.own is not None and self.settings.model.init:
            raise UserError(
                "model.init draws what no checkpoint fills, but your own model comes with its values; leave model.init "
                "out, and call jaxft.initialization.drawing.initialize on your model."
            )
        if self.own is None and self.settings.model.mmdet is None:
            check_options(self.settings.model.name, self.settings.model.options)

    def build(self, classes: int, key: Array | None = None) -> nnx.Module:
        """The model with its first values, by a random key, or else by the configuration's seed."""
        if self.own is not None:
            return nnx.clone(self.own)
        key = jax.random.key(self.settings.seed) if key is None else key
        model, lora = self._drawn(classes, key), self.settings.model.lora
        if lora.rank:
            add_lora(model, lora, head=self.head(), rngs=initial_rngs(jax.random.fold_in(key, 2)))
        return model

    def _drawn(self, classes: int, key: Array) -> nnx.Module:
        """The model with its first values, before anything is added."""
        model = self._plain(classes, key)
        if self.settings.model.edits:
            apply(model, self.steps(classes), classes, rngs_of(key))
        initialize(model, self.settings.model.init, key)
        return model

    def _plain(self, classes: int, key: Array) -> nnx.Module:
        """The model before it is edited."""
        settings = self.settings.model
        if settings.mmdet is not None:
            from converters.mmdet import create_model

            return create_model(settings.mmdet, num_classes=classes, rngs=initial_rngs(key))
        return builder(settings.name)(classes, rngs=initial_rngs(key), **settings.options)

    def steps(self, classes: int) -> tuple[Step, ...]:
        """What `model.edits` do, with every size; found once.

        Raises:
            UserError: they do not go together, or not with the model.
        """
        if not self._resolved:
            settings, size = self.settings.model, self.settings.task.task(self.settings.dtype).preprocessing().size
            model = nnx.eval_shape(lambda: self._plain(classes, jax.random.key(0)))
            found = resolve(
                model,
                settings.edits,
                images_for(model, size),
                classes,
                name="model.edits",
                heads=lambda: class_layers(lambda count: nnx.eval_shape(lambda: self._plain(count, jax.random.key(0)))),
            )
            if is_vector(found.before) and found.before != found.after:
                raise UserError(
                    f"model.edits change what the {type(model).__name__} puts out from {found.before} to "
                    f"{found.after}, but the data have {classes} classes; edit its head so that it puts out as many."
                )
            self._resolved.append(found.steps)
        return self._resolved[0]

    def abstract(self, classes: int) -> nnx.Module:
        """The same as shapes and types alone; a user's own model keeps its values.

        Raises:
            UserError: there is no such model, it has no such option, a run cannot hold the user's own, or `model.edits`
                do not go with it.
        """
        if self.own is not None:
            _check_own(self.own)
            return nnx.clone(self.own)
        model = self._without_additions(classes)
        if self.settings.model.lora.rank:
            add_lora(model, self.settings.model.lora, head=self.head())
        return model

    def _without_additions(self, classes: int) -> nnx.Module:
        """The abstract model as `model.edits` leave it."""
        settings = self.settings.model
        if settings.mmdet is not None:
            return nnx.eval_shape(lambda: self._drawn(classes, jax.random.key(0)))
        model = abstract_model(settings.name, classes, **settings.options)
        if settings.edits:
            apply(model, self.steps(classes), classes)
        return model

    def head(self) -> tuple[str, ...]:
        """The paths of the class-dependent layers.

        Raises:
            UserError: they are not known, of a model of the user's own, or not there, after `model.edits`.
        """
        found = class_layers(self._without_additions) if self.own is None else head_of(self.own)
        if not found and self.settings.model.edits:
            raise UserError(
                f"{HEAD} stands for the layers that change with the number of classes, but model.edits leave none; let "
                "the last Linear have no out_features, or name the layers by their paths."
            )
        return found


def _check_own(model: nnx.Module) -> None:
    paths: dict[int, str] = {}
    for place in walk(model):
        if isinstance(place.variable.get_value(), jax.ShapeDtypeStruct):
            raise UserError(f"{place.path} of your {type(model).__name__} has no value; give a model with its values.")
        other = paths.setdefault(id(place.variable), place.path)
        if other != place.path:
            raise UserError(
                f"{other} and {place.path} of your {type(model).__name__} are one array, but a run holds every array "
                "under one path; keep it in one place, or make two."
            )


def abstract_for(source: ModelSource, task: Task, classes: tuple[str, ...]) -> nnx.Module:
    """The abstract model of a run on data of these classes.

    Raises:
        UserError: there is no such model, it does not do what the task needs, it is told another number of classes, or
            an initialiser of the configuration does not fit it.
    """
    told = source.settings.model.num_classes
    if told not in (None, len(classes)):
        raise UserError(
            f"model.num_classes is {told}, but the data have the {len(classes)} classes {', '.join(classes[:10])}; "
            "leave it out or correct it."
        )
    model = source.abstract(len(classes))
    draws(model, source.settings.model.init)
    task.check_model(model, classes)
    return model


def head_named(source: ModelSource) -> config.Config:
    """The configuration with the paths of this model's head in the place of the pattern `@head`."""
    settings = source.settings

    def named(pattern: str) -> tuple[str, ...]:
        return source.head() if pattern == HEAD else (pattern,)

    phases = tuple(
        replace(phase, rules=tuple(replace(rule, pattern=name) for rule in phase.rules for name in named(rule.pattern)))
        for phase in settings.phases
    )
    skip = tuple(name for pattern in settings.pretrained.skip for name in named(pattern))
    return replace(settings, pretrained=replace(settings.pretrained, skip=skip), phases=phases)


def load_weights(
    model: nnx.Module, source: ModelSource, pretrained: config.Pretrained, classes: Sequence[str]
) -> Ledger | None:
    """Fills an abstract model from its configured checkpoint, in place, with arrays of the host.

    Args:
        pretrained: with the head named; see `head_named`.

    Returns:
        The account; None where no checkpoint is configured.

    Raises:
        UserError: the checkpoint cannot be had, or does not fit.
    """
    if pretrained.source is None:
        return None
    with on_host():  # on the host, until it is known what lies where
        ledger = load_pretrained(
            model,
            pretrained.source,
            skip=pretrained.skip,
            rename=pretrained.rename,
            sha256=pretrained.sha256,
            prefix=pretrained.prefix,
            original=None if pretrained.edited is None else not pretrained.edited,
        )
    known = source.own is None or made(source.own) is not None
    check_names(ledger, pretrained.source, classes, source.head if known else tuple, pretrained.sha256)
    return ledger


def first_values(
    model: nnx.Module,
    source: ModelSource,
    pretrained: config.Pretrained,
    classes: Sequence[str],
    ledger: Ledger | None,
    layout: Layout,
) -> ArrayDict:
    """The values that a run starts from, where they belong: those in `model`, and fresh ones for what is abstract."""
    loaded = {path: value for path, value in values(model).items() if not isinstance(value, jax.ShapeDtypeStruct)}
    fresh = initial_values(
        lambda key: source.build(len(classes), jax.random.wrap_key_data(key)),
        key_data(source.settings.seed),
        values(model).keys() - loaded.keys(),
        layout.sharding,
        lambda lowered: interruptible(lowered.compile),
    )
    if ledger is not None and pretrained.new_kernels == "xavier_uniform":
        fresh |= layout.place(_xavier(model, fresh.keys(), source.settings.seed))
    arrays = layout.place({path: np.asarray(value) for path, value in loaded.items()}) | fresh
    if ledger is not None and pretrained.transfer_head_rows:
        assert pretrained.source is not None
        _check_known(pretrained, classes)
        layers = source.head()
        for path, _, _, variable in walk(model):
            if path in fresh:
                variable.set_value(jnp.asarray(fetch(fresh[path])))
        carry_classes(
            model,
            pretrained.source,
            classes,
            layers=layers,
            theirs=classes[: pretrained.known_classes],
            rename=pretrained.rename,
            sha256=pretrained.sha256,
            prefix=pretrained.prefix,
            original=None if pretrained.edited is None else not pretrained.edited,
        )
        arrays |= layout.place({path: np.asarray(values(model)[path]) for path in fresh})
    return arrays


def _check_known(pretrained: config.Pretrained, classes: Sequence[str]) -> None:
    """Raises a UserError where a checkpoint calls the classes that it is said to know otherwise."""
    assert pretrained.source is not None
    expected = tuple(classes[: pretrained.known_classes])
    path = Path(pretrained.source)
    names = read_classes(locate(str(path) if path.exists() else pretrained.source.partition("#")[0], pretrained.sha256))
    if len(names) == len(expected) and names != expected:
        raise UserError(
            f"{pretrained.source} knows the classes {', '.join(names)}, but the data start with {', '.join(expected)}; "
            "let data.classes name them in that order."
        )


def _xavier(model: nnx.Module, paths: Collection[str], seed: int) -> dict[str, np.ndarray]:
    """Kernels of linear layers among `paths` drawn Xavier-uniform."""
    draw = jax.nn.initializers.xavier_uniform()
    return {
        path: np.asarray(draw(jax.random.fold_in(jax.random.key(seed), index), variable.shape))
        for index, (path, owner, name, variable) in enumerate(walk(model))
        if path in paths and isinstance(owner, Linear) and name == "kernel" and ".lora." not in path
    }
