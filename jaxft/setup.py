"""From a configuration to the model, its first weights, and the task."""

from dataclasses import replace

import jax
from flax import nnx

from converters import Ledger, load_pretrained
from jaxft import config
from jaxft.models import BUILDERS, abstract_model, materialise, with_head
from jaxft.models.layers import Linear
from jaxft.models.paths import walk
from jaxft.models.streams import initial_rngs
from jaxft.tasks.classification import Classification


def task(settings: config.Config) -> Classification:
    """The task of a configuration."""
    return Classification(settings.images.mean, settings.images.std, settings.label_smoothing, settings.precision)


def build(settings: config.Config, classes: int) -> nnx.Module:
    """The abstract model of a configuration."""
    return abstract_model(settings.model.name, classes, **settings.model.options)


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
    builder = BUILDERS[settings.model.name]
    materialise(model, lambda: builder(classes, rngs=initial_rngs(settings.seed), **settings.model.options))


def pretrained(settings: config.Config, classes: int) -> tuple[nnx.Module, Ledger | None]:
    """The model with its first weights: the checkpoint's, and fresh ones for what was skipped; and the account of it.

    Raises:
        UserError: the checkpoint cannot be had, or does not fit.
    """
    model, weights = build(settings, classes), settings.pretrained
    if weights.source is None:
        fill_in(model, settings, classes)
        return model, None
    ledger = load_pretrained(model, weights.source, skip=weights.skip, rename=weights.rename, sha256=weights.sha256)
    fill_in(model, settings, classes)
    if weights.new_kernels == "xavier_uniform":
        _draw_xavier(model, {row.path for row in ledger.having("new")}, settings.seed)
    return model, ledger


def _draw_xavier(model: nnx.Module, paths: set[str], seed: int) -> None:
    draw = jax.nn.initializers.xavier_uniform()
    for index, (path, owner, name, variable) in enumerate(walk(model)):
        if path in paths and isinstance(owner, Linear) and name == "kernel":
            variable.set_value(draw(jax.random.fold_in(jax.random.key(seed), index), variable.shape))
