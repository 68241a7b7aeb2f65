"""What a run leaves in its directory for people: how it began, pictures, the details of the best model's evaluation."""

import gzip
import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import flax
import jax
import numpy as np
import optax

from jaxft.errors import UserError
from jaxft.models.paths import values
from jaxft.places import write_whole
from jaxft.processes import code_version
from jaxft.reporting import beginning as beginnings
from jaxft.reporting import details
from jaxft.run import RunDirectory
from jaxft.training.beginning import Beginning
from jaxft.training.evaluation import Evaluated
from jaxft.training.picturing import picture_best, picture_inputs
from jaxft.training.setup import Setup
from jaxft.training.stages import Stage

POINTS = 200  # of a rate's curve


def record_beginning(start: Beginning, run: RunDirectory) -> None:
    """Writes what the run is: machine, versions, weights, phases and the rates of their groups; draws what it is
    fed. Of a run that goes on phases and changed settings alone are new."""
    setup, phases = start.setup, tuple(_phase(start.setup, stage) for stage in start.setup.stages)
    if start.resumes:
        with suppress(UserError, OSError):  # a run of an older version has none
            old = beginnings.from_json(run.beginning_file.read_bytes(), str(run.beginning_file))
            changed = old.changed if start.changes is None else start.changes
            found = replace(old, phases=phases, steps_per_epoch=setup.steps_per_epoch, changed=changed)
            write_whole(run.beginning_file, beginnings.to_json(found))
        return
    ledger = start.ledger
    new = () if ledger is None else tuple(row.path for row in ledger.having("new"))
    weights = ["first values are drawn" if ledger is None else ledger.summary(), *setup.edits]
    found = beginnings.Beginning(
        facts=_facts(setup),
        weights=tuple(weights),
        new=new,
        data=start.said,
        steps_per_epoch=setup.steps_per_epoch,
        phases=phases,
        changed=start.changes or {},
    )
    write_whole(run.beginning_file, beginnings.to_json(found))
    picture_inputs(setup, run)


def _facts(setup: Setup) -> dict[str, str]:
    devices = jax.devices()
    arrays = values(setup.model)
    versions = {"Python": platform.python_version(), "JAX": jax.__version__, "Flax": flax.__version__}
    return {
        "model": setup.config.model.name if setup.own.model is None else type(setup.own.model).__name__,
        "numbers in the model": f"{sum(int(np.prod(array.shape)) for array in arrays.values()):,}",
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processes": str(jax.process_count()),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{name} {number}" for name, number in (*versions.items(), ("Optax", optax.__version__))),
        "jaxft": f"{version('jaxft')}, code {code_version()}",
        **({"commit": commit} if (commit := _commit()) else {}),
    }


def _commit() -> str:
    """The commit of the folder that a run starts in, with `-dirty` where files differ; empty where there is none."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
            cwd=Path.cwd(),
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()


def _phase(setup: Setup, stage: Stage) -> beginnings.PhaseFacts:
    count = stage.last - stage.first
    chosen = np.unique(np.linspace(0, count - 1, min(count, POINTS)).astype(int))
    return beginnings.PhaseFacts(
        first=stage.first,
        last=stage.last,
        trained=setup.trained_numbers(stage),
        groups={label: tuple(rates[chosen].tolist()) for label, rates in stage.learning_rates.items()},
        steps=tuple((chosen + stage.first).tolist()),
    )


def record(setup: Setup, run: RunDirectory, step: int, evaluated: Evaluated, *, best: bool) -> None:
    """Keeps the details and draws examples where the model is the best so far, or there are none yet."""
    dataset = setup.validation
    if jax.process_index() != 0 or dataset is None:
        return
    if best or not run.evaluation_file.exists():
        found = details.Evaluation(
            step=step,
            epoch=-(-step // setup.steps_per_epoch),
            split="validation",
            examples=len(dataset),
            metrics=evaluated.metrics,
            details=evaluated.details(),
        )
        write_whole(run.evaluation_file, gzip.compress(details.to_json(found), compresslevel=1))
        picture_best(setup, run, step, found.details)
