"""From a configuration to the model, its first weights, and the task."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
from flax import nnx

from converters import Ledger, load_pretrained
from converters.carry import carry_classes, check_names
from jaxft import config
from jaxft.errors import UserError
from jaxft.models import BUILDERS, abstract_model, class_layers, materialise, with_head
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.layers import Linear
from jaxft.models.paths import walk
from jaxft.models.streams import initial_rngs
from jaxft.tasks.classification import Classification
from jaxft.tasks.detection import Detection


def task(settings: config.Config) -> Classification | Detection:
    """The task of a configuration."""
    return detection(settings) if settings.data.has_objects else classification(settings)


def classification(settings: config.Config) -> Classification:
    """One class an image."""
    return Classification(settings.images.mean, settings.images.std, settings.label_smoothing, settings.precision)


def detection(settings: config.Config) -> Detection:
    """Objects in photos."""
    images = settings.images
    return Detection(images.mean, images.std, images.bgr, settings.precision)


def build(settings: config.Config, classes: int) -> nnx.Module:
    """The abstract model of a configuration.

    Raises:
        UserError: there is no such model, or it does not do what the data ask for.
    """
    if settings.model.mmdet is not None:
        model = nnx.eval_shape(_builder(settings, classes))
    else:
        model = abstract_model(settings.model.name, classes, **settings.model.options)
    _check_purpose(model, settings)
    return model


def _builder(settings: config.Config, classes: int) -> Callable[[], nnx.Module]:
    """What makes the model of a configuration with its first values."""
    description, options = settings.model.mmdet, settings.model.options
    if description is not None:
        from converters.mmdet import create_model

        return lambda: create_model(description, num_classes=classes, rngs=initial_rngs(settings.seed))
    builder = BUILDERS[settings.model.name]
    return lambda: builder(classes, rngs=initial_rngs(settings.seed), **options)


def _check_purpose(model: nnx.Module, settings: config.Config) -> None:
    finds = hasattr(model, "loss") and hasattr(model, "predict")
    name = settings.model.name if settings.model.mmdet is None else "The model"
    if settings.data.has_objects and not finds:
        raise UserError(f"{name} is a classifier, but the data source {settings.data.source!r} is for detectors.")
    if finds and not settings.data.has_objects:
        raise UserError(
            f"{name} is a detector, but the data source {settings.data.source!r} has one class a photo; use "
            "--data.source coco or voc."
        )
    if finds and not settings.detection.masks and any(".mask_head." in f".{path}" for path, *_ in walk(model)):
        raise UserError(f"{name} learns masks, so the data must have them; set --detection.masks.")


def head_named(settings: config.Config) -> config.Config:
    """The configuration with the paths of this model's head in the place of the pattern `@head`."""

    def named(pattern: str) -> tuple[str, ...]:
        return with_head((pattern,), lambda classes: build(settings, classes))

    phases = tuple(
        replace(phase, rules=tuple(replace(rule, pattern=name) for rule in phase.rules for name in named(rule.pattern)))
        for phase in settings.phases
    )
    skip = tuple(name for pattern in settings.pretrained.skip for name in named(pattern))
    return replace(settings, pretrained=replace(settings.pretrained, skip=skip), phases=phases)


def fill_in(model: nnx.Module, settings: config.Config, classes: int) -> None:
    """Draws what no checkpoint filled, from the configuration's seed, in place."""
    materialise(model, _builder(settings, classes))


def pretrained(settings: config.Config, classes: Sequence[str]) -> tuple[nnx.Module, Ledger | None]:
    """The model with its first weights: the checkpoint's, and fresh ones for what was skipped; and the account of it.

    `classes` are the names of the classes in the data.

    Raises:
        UserError: the checkpoint cannot be had, or does not fit.
    """
    count, weights = len(classes), settings.pretrained
    model = build(settings, count)
    if count > 1 and isinstance(getattr(model, "bbox_head", None), RPNHead):
        raise UserError(
            f"The model is an RPN alone, which tells no classes apart, but the data have {count}; let them count as "
            "one with --data.single-class object."
        )
    if weights.source is None:
        fill_in(model, settings, count)
        return model, None
    ledger = load_pretrained(model, weights.source, skip=weights.skip, rename=weights.rename, sha256=weights.sha256)

    def layers() -> tuple[str, ...]:
        return class_layers(lambda classes: build(settings, classes))

    check_names(ledger, weights.source, classes, layers, weights.sha256)
    fill_in(model, settings, count)
    if weights.new_kernels == "xavier_uniform":
        _draw_xavier(model, {row.path for row in ledger.having("new")}, settings.seed)
    if weights.carry_classes:
        carry_classes(model, weights.source, classes, layers=layers(), rename=weights.rename, sha256=weights.sha256)
    return model, ledger


def _draw_xavier(model: nnx.Module, paths: set[str], seed: int) -> None:
    draw = jax.nn.initializers.xavier_uniform()
    for index, (path, owner, name, variable) in enumerate(walk(model)):
        if path in paths and isinstance(owner, Linear) and name == "kernel":
            variable.set_value(draw(jax.random.fold_in(jax.random.key(seed), index), variable.shape))
