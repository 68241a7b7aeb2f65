"""What a run is before its first step: a new one, or the one in the run directory, from its last checkpoint."""

from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from converters import Ledger
from converters.sources import locate
from jaxft.checks import check_places
from jaxft.config import Config, completed, differences
from jaxft.data.download import download
from jaxft.fields import flat
from jaxft.precision import described
from jaxft.processes import check_alike, check_shared, checks_shared, code_version, fingerprint, first_alone
from jaxft.reporting.screen import Screen
from jaxft.run import RunDirectory, named_run
from jaxft.training.batch import resolved
from jaxft.training.layout import first_says
from jaxft.training.own import Own
from jaxft.training.resuming import check_config, check_examples, check_own
from jaxft.training.saved import Saved, last_checkpoint
from jaxft.training.setup import Setup, set_up
from jaxft.training.stages import Stage
from jaxft.training.state import TrainState


class Beginning(NamedTuple):
    """A run before its first step; nothing is written yet.

    Attributes:
        resumes: whether the run directory holds the run already.
        saved: its last checkpoint; None where there is none to go on from.
        stage: the one that the run begins or goes on in.
        state: the first one; None where the checkpoint holds it.
        ledger: what became of the first weights; None where there are none, or the run goes on.
        said: of the data.
        changes: what differs from the configuration that the run's was made from; None where nobody names one.
    """

    resumes: bool
    saved: Saved | None
    setup: Setup
    stage: Stage
    state: TrainState | None
    ledger: Ledger | None = None
    said: tuple[str, ...] = ()
    changes: dict[str, tuple[Any, Any]] | None = None


def begin(config: Config, run: RunDirectory, own: Own, *, resume: bool, screen: Screen) -> Beginning:
    """Checks all that can be checked, cheap things first, and makes what a run starts from.

    Args:
        resume: go on with the run in `run`, where there is one.

    Raises:
        UserError: the run could not be started, or not go on.
    """
    changes = None if own.parent is None else differences(own.parent, config)
    resumes = first_says(resume and run.exists())
    if resumes:
        check_shared(run.config_file)
    each = config.data.batch_size * config.optimizer.accumulate if config.data.batch_per_device else None
    config, remark = resolved(config, jax.device_count(), run.config() if resumes else None)
    if each is not None and config.data.batch_size != each * jax.device_count():
        screen.say(f"The run goes on with batches of {config.data.batch_size}, as it began.")
    versions = {"version of JAX": jax.__version__, "code of jaxft": code_version()}
    check_alike({**flat(config), **versions, "run directory": str(run.path), **own.names})
    if resumes:
        check_own(run, own.names)
    check_places(config, run, resume=resumes, own_data=own.datasets is not None)
    multihost_utils.sync_global_devices("nobody takes what is made now for what was there")
    saved = last_checkpoint(run) if resumes else None
    if resumes:
        check_config(run, config, saved)
    if jax.process_count() > 1:
        with first_alone():
            _download(completed(config), data=own.datasets is None, weights=own.model is None and not saved)
    setup = set_up(config, own, copies=resumes)
    check_alike({f"examples of {split}": fingerprint(lines) for split, lines in setup.examples.items()})
    if resumes:
        check_examples(run, setup.classes, setup.examples)
        if idle := setup.layout.idle:
            screen.say(
                f"A batch of {config.data.batch_size} is not cut for {jax.device_count()} devices: {idle} of them do "
                "what others do, so that the run stays the same."
            )
    elif remark:
        screen.say(remark)
    ledger = None if saved else setup.load_weights()
    screen.say(described(config.precision))
    said = []
    for dataset in setup.datasets:
        with checks_shared():
            dataset.check()
        said.append(dataset.report(config.data.batch_size))
        screen.say(said[-1])
    setup = setup.with_teacher()
    check_alike(setup.names)
    if resumes:
        check_own(run, setup.names)
    for line in [*setup.edits, *([] if ledger is None else [ledger.summary()]), *setup.distilled]:
        screen.say(line)
    stage = setup.stages[saved.phase if saved else 0]
    state = None if saved else setup.first_state(stage, ledger)
    return Beginning(resumes, saved, setup, stage, state, ledger, tuple(said), changes)


def _download(config: Config, *, data: bool, weights: bool) -> None:
    """Brings data and first weights that are somewhere in the network to the cache."""
    if data:
        download(config.data)
    if weights and config.pretrained.source is not None and named_run(config.pretrained.source) is None:
        locate(config.pretrained.source.partition("#")[0], config.pretrained.sha256)
    teacher = config.distillation.teacher
    if teacher is not None and named_run(teacher) is None:
        locate(teacher.partition("#")[0])
