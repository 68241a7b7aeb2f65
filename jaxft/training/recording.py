"""What an evaluation leaves in the run directory: pictures, and the details of the best model's."""

import gzip

import jax

from jaxft.places import write_whole
from jaxft.reporting.details import Evaluation, to_json
from jaxft.run import RunDirectory
from jaxft.training.evaluation import Evaluated
from jaxft.training.picturing import picture_best
from jaxft.training.setup import Setup


def record(setup: Setup, run: RunDirectory, step: int, evaluated: Evaluated, *, best: bool) -> None:
    """Keeps the details and draws examples where the model is the best so far, or there are none yet."""
    dataset = setup.validation
    if jax.process_index() != 0 or dataset is None:
        return
    if best or not run.evaluation_file.exists():
        found = Evaluation(
            step=step,
            epoch=-(-step // setup.steps_per_epoch),
            split="validation",
            examples=len(dataset),
            metrics=evaluated.metrics,
            details=evaluated.details(),
        )
        write_whole(run.evaluation_file, gzip.compress(to_json(found), compresslevel=1))
        picture_best(setup, run, step, found.details)
