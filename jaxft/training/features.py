"""Features computed once: what lies in front of all that trains, for every view of every example, kept on disk.

A frozen part without chance gives the same for the same image in every epoch. `with_features` finds where that ends
(see `jaxft.training.split`) and computes it once; the step and the evaluation go on from there.
"""

import math
from dataclasses import replace

import numpy as np
from flax import nnx

from jaxft.data.stored import Views
from jaxft.errors import UserError
from jaxft.models.paths import modules
from jaxft.reporting.screen import Screen
from jaxft.training.feature_files import MIXES, computed
from jaxft.training.halves import Halves, loss_halves, prediction_halves
from jaxft.training.setup import Setup, StoredPrediction
from jaxft.training.state import TrainState


def check_features(setup: Setup) -> str | None:
    """What a run with stored features keeps, in a sentence, before there is an array; None where it stores none.

    Raises:
        UserError: nothing can be computed once.
    """
    if not setup.config.stored_features:
        return None
    _check_alike(setup)
    halves = _gaining_halves(setup, Views(setup.train, setup.config.data.views, setup.config.seed))
    each = sum(math.prod(one.shape) for one in halves.split.kept) // halves.rows
    return f"features: {each:,} numbers of each of {setup.config.data.views} view(s) of an image are computed once"


def _gaining_halves(setup: Setup, views: Views) -> Halves:
    halves = loss_halves(setup, views, setup.config.data.batch_size // setup.config.optimizer.accumulate)
    _check_gain(halves)
    return halves


def with_features(setup: Setup, state: TrainState, screen: Screen) -> Setup:
    """A run whose training and validation examples are what the frozen part in front gives of them; the run as it is
    where `stored_features` is off.

    Raises:
        UserError: nothing can be computed once, or the cache folder has no room.
    """
    if not setup.config.stored_features:
        return setup
    _check_alike(setup)
    config, validation = setup.config, setup.validation
    views = Views(setup.train, config.data.views, config.seed)
    halves = _gaining_halves(setup, views)
    train = computed(setup, halves, state.model, views)
    screen.say(f"features of {train.said}")
    changed = replace(setup, train=train.examples, through=lambda _: halves.loss)
    if validation is None:
        return changed
    views = Views(validation)
    evaluated = prediction_halves(setup, halves.varying, views, config.data.batch_size)
    found = computed(setup, evaluated, state.evaluated, views)
    screen.say(f"features of {found.said}")
    return replace(changed, prediction=StoredPrediction(evaluated.prediction, found.examples))


def _check_gain(halves: Halves) -> None:
    """Raises a UserError where nothing can be computed once for each example."""
    split, image = halves.split, halves.image
    kept = sum(math.prod(one.shape) for one in split.kept)
    if not split.before or kept >= math.prod(image.shape):
        raise UserError(
            f"stored_features would keep {kept // halves.rows:,} numbers an image, no fewer than its own "
            f"{math.prod(image.shape) // halves.rows:,}: something that trains, or is random in training (dropout, "
            "stochastic depth, mixup), lies near the input. Freeze more, switch that off (model.options, task), or "
            "leave stored_features out."
        )
    if any(not one.shape or one.shape[0] % halves.rows for one in split.kept):
        raise UserError(MIXES)


def _check_alike(setup: Setup) -> None:
    """Raises a UserError where phases train different parts, or images have several shapes."""
    kinds = {(stage.groups.trained, _modes(setup.template(stage))) for stage in setup.stages}
    if len(kinds) > 1:
        raise UserError(
            "stored_features computes what lies in front of all that trains, but the phases train different parts, or "
            "their BatchNorm does different things; give each a run of its own, the second one with the first one's "
            "weights."
        )
    if any(len(np.unique(dataset.buckets)) > 1 for dataset in setup.datasets):
        raise UserError("stored_features keeps features of one shape, but the images have several; leave it out.")


def _modes(model: nnx.Module) -> tuple[bool, ...]:
    """What every BatchNorm of a model does."""
    norms = [module for _, module in modules(model)]
    found = (getattr(norm, "running_only", getattr(norm, "use_running_average", None)) for norm in norms)
    return tuple(mode for mode in found if mode is not None)
