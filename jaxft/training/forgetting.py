"""What a run has forgotten of what its teacher knows: the teacher is evaluated once, and each evaluation compared."""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import jax

from jaxft.places import write_whole
from jaxft.reporting.progress import Reporter
from jaxft.run import RunDirectory
from jaxft.tasks.forgetting import with_forgotten
from jaxft.training.evaluation import Evaluated, Predictor, evaluate
from jaxft.training.layout import first_says
from jaxft.training.setup import Setup
from jaxft.training.stopping import Interrupted


@dataclass(frozen=True)
class Forgetting:
    """Evaluations beside the teacher's.

    Attributes:
        kept: as of `jaxft.tasks.task.Task`.
        teacher: its figures that are compared; empty where nothing is.
    """

    kept: str
    teacher: Mapping[str, float]

    def __call__(self, evaluated: Evaluated) -> Evaluated:
        """An evaluation with what has been forgotten."""
        return evaluated._replace(metrics=with_forgotten(self.kept, self.teacher, evaluated.metrics))


def watch_forgetting(setup: Setup, run: RunDirectory, reporter: Reporter) -> Forgetting:
    """Evaluates the teacher on the validation split where the task is to keep what it knows, and keeps its figures in
    the run directory, so that a run that goes on reads them.

    A signal leaves the figures out: the run ends then, and makes up for it when it goes on.

    Raises:
        UserError: the file in the run directory cannot be read.
    """
    kept, file = setup.task.kept, run.teacher_file
    if not kept or setup.teacher is None or setup.validation is None:
        return Forgetting(kept, {})
    if first_says(file.exists()):
        return Forgetting(kept, run.teacher())
    reporter.say(
        f"The teacher is evaluated on the {len(setup.validation):,} examples of the validation split, once for the "
        "whole run, so that each evaluation says what has been forgotten."
    )
    try:
        found = _evaluated(setup, reporter)
    except Interrupted:
        return Forgetting(kept, {})
    figures = {name: value for name, value in found.items() if name.startswith(kept)}
    reporter.say("teacher: " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    if jax.process_index() == 0:
        write_whole(file, json.dumps(figures, indent=2).encode())
    return Forgetting(kept, figures)


def _evaluated(setup: Setup, reporter: Reporter) -> dict[str, float]:
    """All figures of the teacher."""
    assert setup.teacher is not None
    assert setup.teaching is not None
    assert setup.validation is not None
    data = setup.config.data
    predictor = Predictor(
        setup.task,
        setup.teacher.model,
        setup.layout,
        batch_size=data.batch_size,
        workers=data.workers,
        precision=setup.config.precision,
        compiling=lambda number: reporter.doing(f"compiling the evaluation of the teacher, program {number}"),
    )
    with closing(predictor), reporter.doing("evaluating the teacher") as counted:
        return evaluate(predictor, setup.task, setup.teaching.arrays, setup.validation, counted=counted).metrics
