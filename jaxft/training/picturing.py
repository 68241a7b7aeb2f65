"""Pictures of a run: what it is fed, and what its best model says."""

from functools import partial

import numpy as np

from jaxft.data.cores import on_all_cores
from jaxft.reporting.details import Details
from jaxft.reporting.gallery import draw_gallery, draw_inputs
from jaxft.run import RunDirectory
from jaxft.tasks.task import Fed
from jaxft.training.evaluation import spread
from jaxft.training.setup import Setup

FED = 24  # training examples in the picture of inputs


def picture_inputs(setup: Setup, run: RunDirectory) -> None:
    """Draws training examples of the first epoch as the model is fed them, `inputs.png`; where `config.pictures` says
    so, and the data are not the user's own, whose arrays may be anything."""
    config = setup.config
    if not config.pictures or setup.own.datasets is not None:
        return

    def fed(index: int) -> Fed:
        rng = np.random.default_rng([config.seed, 0, index])  # as the loader draws
        return setup.task.fed(setup.train, index, rng)

    found = on_all_cores(fed, spread(len(setup.train), FED), "drawing what the model is fed")
    remark = f"; then {found[0].later}" if found[0].later else ""
    picture = run.pictures / "inputs.png"
    draw_inputs([one.pixels for one in found], [one.example for one in found], setup.train.classes, remark, picture)


def picture_best(setup: Setup, run: RunDirectory, step: int, details: Details) -> None:
    """Draws photos with what the best model so far says of them, `predictions.png`."""
    dataset = setup.validation
    if not setup.config.pictures or dataset is None or not details.examples:
        return
    when = f"The best model by {setup.best_metric.name} so far, step {step}"
    if step % setup.steps_per_epoch == 0:
        when += f" (epoch {step // setup.steps_per_epoch})"
    draw_gallery(details.examples, partial(setup.task.panel, dataset), when, run.pictures / "predictions.png")
