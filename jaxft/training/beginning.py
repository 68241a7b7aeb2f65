"""What a run is before its first step: a new one, or the one in the run directory, from its last checkpoint."""

from typing import NamedTuple

import jax
from jax.experimental import multihost_utils

from jaxft.checks import check_places
from jaxft.config import Config
from jaxft.fields import flat
from jaxft.precision import described
from jaxft.processes import check_alike, check_shared, code_version, fingerprint
from jaxft.reporting.screen import Screen
from jaxft.run import RunDirectory
from jaxft.training.batch import resolved
from jaxft.training.checkpoint import Saved, last_checkpoint
from jaxft.training.layout import first_says
from jaxft.training.resuming import check_config, check_examples, check_own
from jaxft.training.setup import Own, Setup, set_up
from jaxft.training.stages import Stage
from jaxft.training.state import TrainState


class Beginning(NamedTuple):
    """A run before its first step; nothing is written yet.

    Attributes:
        resumes: whether the run directory holds the run already.
        saved: its last checkpoint; None where there is none to go on from.
        stage: the one that the run begins or goes on in.
        state: the first one; None where the checkpoint holds it.
    """

    resumes: bool
    saved: Saved | None
    setup: Setup
    stage: Stage
    state: TrainState | None


def begin(config: Config, run: RunDirectory, own: Own, *, resume: bool, screen: Screen) -> Beginning:
    """Checks all that can be checked, cheap things first, and makes what a run starts from.

    Args:
        resume: go on with the run in `run`, where there is one.

    Raises:
        UserError: the run could not be started, or not go on.
    """
    config, remark = resolved(config, jax.device_count())
    resumes = first_says(resume and run.exists())
    versions = {"version of JAX": jax.__version__, "code of jaxft": code_version()}
    check_alike({**flat(config), **versions, "run directory": str(run.path), **own.names})
    if resumes:
        check_shared(run.config_file)
        check_own(run, own.names)
    check_places(config, run, resume=resumes, own_data=own.datasets is not None)
    multihost_utils.sync_global_devices("nobody takes what is made now for what was there")
    saved = last_checkpoint(run) if resumes else None
    if resumes:
        check_config(run, config, saved)
    setup = set_up(config, own)
    check_alike({f"examples of {split}": fingerprint(lines) for split, lines in setup.examples.items()})
    if resumes:
        check_examples(run, setup.classes, setup.examples)
    elif remark:
        screen.say(remark)
    ledger = None if saved else setup.load_weights()
    screen.say(described(config.precision))
    for dataset in setup.datasets:
        dataset.check()
        screen.say(dataset.report(config.data.batch_size))
    if ledger is not None:
        screen.say(ledger.summary())
    stage = setup.stages[saved.phase if saved else 0]
    return Beginning(resumes, saved, setup, stage, None if saved else setup.first_state(stage, ledger))
