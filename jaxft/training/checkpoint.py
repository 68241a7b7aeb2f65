"""Orbax checkpoints of a run: the last state to go on from, and the best model."""

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxft.errors import UserError
from jaxft.run import RunDirectory
from jaxft.tasks.task import Metric
from jaxft.training.state import TrainState

NOT_FINITE = "not_finite"  # a file that holds the step after which a run has met numbers that are not finite
ATTEMPTS = 5  # of a reader, beside which a run may replace a checkpoint
PAUSE = 0.2  # seconds before another one


class Checkpoints:
    """`FOLDER/last` and `FOLDER/best`, each with one complete checkpoint at any moment.

    Saving goes on in the background. A checkpoint appears by a rename once all of it is on the disk, and only then the
    one before it goes, so that a kill at any moment leaves a whole one.

    Args:
        read_only: of a run that may be under way in another process: nothing is created, cleared away or saved.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self._folder, self._read_only = folder.resolve(), read_only
        try:
            self._managers = {
                which: self._manager(which)
                for which in ("last", "best")
                if not read_only or (self._folder / which).is_dir()
            }
        except OSError as error:
            trouble = "read from" if read_only else "written to"
            raise UserError(f"Checkpoints cannot be {trouble} {folder} ({error}); choose another --workdir.") from error

    def _manager(self, which: str) -> ocp.CheckpointManager:
        """Orbax' manager of a folder; it lists what is there, which a run under way may just be replacing."""
        for attempt in range(ATTEMPTS):
            try:
                with _quiet():
                    if self._read_only:
                        options = ocp.CheckpointManagerOptions(read_only=True)
                    else:
                        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, cleanup_tmp_directories=True)
                    return ocp.CheckpointManager(self._folder / which, options=options)
            except FileNotFoundError:
                if attempt + 1 == ATTEMPTS:
                    raise
                time.sleep(PAUSE)
        raise AssertionError("every attempt returns or raises")

    def save(self, state: TrainState, metadata: Mapping[str, Any]) -> None:
        """Saves a state to go on from and JSON metadata under its step; the work goes on in the background.

        Raises:
            UserError: the disk cannot be written. The checkpoint before stays.
        """
        arrays = {"model": state.model, "optimizer": state.opt_state, "ema": state.ema}
        self._save("last", int(state.step), arrays, metadata)

    def save_best(self, state: TrainState, metadata: Mapping[str, Any]) -> None:
        """Saves the model of a state, and the moving average where one is kept, as the best so far.

        Raises:
            UserError: the disk cannot be written. The checkpoint before stays.
        """
        self._save("best", int(state.step), {"model": state.model, "ema": state.ema}, metadata)

    def _save(self, which: str, step: int, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        manager = self._managers[which]
        if manager.latest_step() == step:
            return
        if jax.process_count() == 1:
            # Of copies on several devices Orbax would take a slice from each, and compile one for every shape.
            arrays = jax.tree.map(lambda x: x.addressable_data(0) if x.is_fully_replicated else x, arrays)
        arguments = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in arrays.items() if jax.tree.leaves(tree)},
            metadata=ocp.args.JsonSave(dict(metadata)),
        )
        try:
            if jax.process_count() > 1:
                # Both managers number their barriers among the processes alike; a save beside another's end once hung.
                self.wait()
            manager.save(step, args=arguments)
        except OSError as error:
            raise UserError(
                f"The checkpoint of step {step} could not be written ({error}); the one before it stays."
            ) from error

    def not_finite(self, step: int, run: RunDirectory) -> UserError:
        """Notes that the numbers of the step after `step`, the last checkpoint's, were not finite: the error for it."""
        if jax.process_index() == 0:
            temporary = self._folder / f".{NOT_FINITE}.tmp"
            temporary.write_text(f"{step}\n")
            os.replace(temporary, self._folder / NOT_FINITE)
        return UserError(
            f"The loss or its gradient was not finite in step {step + 1}. The last good state, of step {step}, is "
            f"saved in {run.path}. Go on from it with --resume and a lower --optimizer.learning-rate, or start again "
            "with a warm-up or --optimizer.clip-norm."
        )

    def step(self, which: str = "last") -> int | None:
        """The step of the last or the best checkpoint; None where there is none yet."""
        return self._managers[which].latest_step() if which in self._managers else None

    def metadata(self, which: str = "last") -> dict[str, Any]:
        """The JSON metadata of a checkpoint."""
        return self._restore(which, metadata=ocp.args.JsonRestore())[1]["metadata"]

    def state(self, abstract: TrainState) -> TrainState:
        """The last state, in the structure, types and shardings of `abstract`."""
        named = {"model": abstract.model, "optimizer": abstract.opt_state, "ema": abstract.ema}
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in named.items() if jax.tree.leaves(tree)}
        step, found = self._restore("last", **arguments)
        return dataclasses.replace(
            abstract,
            step=_scalar(abstract.step, np.int32(step)),
            all_finite=_scalar(abstract.all_finite, np.bool_(True)),
            params={path: found["model"][path] for path in abstract.params},
            stats={path: found["model"][path] for path in abstract.stats},
            ema=found["ema"] if abstract.ema is not None else None,
            opt_state=found["optimizer"] if "optimizer" in arguments else abstract.opt_state,
        )

    def model(
        self, abstract: Mapping[str, Any], which: str = "best", *, averaged: Collection[str] = ()
    ) -> tuple[int, dict[str, jax.Array]]:
        """The step of a checkpoint and its model's arrays, by dotted path.

        Args:
            averaged: the paths of the parameters to take from the moving average, which must have been kept.
            abstract: their shapes, types and, where they should lie elsewhere than on the first device, shardings.
        """
        # Said for every array, because a run may have been saved by other devices than there are here.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here)
            for path, leaf in abstract.items()
        }
        wanted = {"model": placed} | ({"ema": {path: placed[path] for path in averaged}} if averaged else {})
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        step, found = self._restore(which, **arguments)
        return step, found["model"] | (found["ema"] if averaged else {})

    def _restore(self, which: str, **arguments: Any) -> tuple[int, Any]:
        """The step of a checkpoint and its items, all of the same one."""
        for attempt in range(ATTEMPTS):
            step = self.step(which)
            if step is None:
                raise UserError(
                    f"{self._folder} holds no {which} checkpoint; "
                    + (
                        "train first."
                        if self.step() is None
                        else "no evaluation has chosen one; take --checkpoint last."
                    )
                )
            try:
                with _mute_unless_done(), _quiet():
                    return step, self._managers[which].restore(step, args=ocp.args.Composite(**arguments))
            except (ValueError, KeyError, OSError) as error:
                if self._read_only:
                    self._managers[which] = self._manager(which)
                if self.step(which) != step and attempt + 1 < ATTEMPTS:
                    continue  # a run under way has replaced it meanwhile
                reason = str(error).splitlines()[0][:200]
                raise UserError(
                    f"The checkpoint {self._folder / which / str(step)} is damaged or of another model: {reason}"
                    f"{self._alternative(which)}"
                ) from error
        raise AssertionError("every attempt returns or raises")

    def _alternative(self, which: str) -> str:
        """What else there is, where the last state cannot be read."""
        if which != "last" or self.step("best") is None:
            return ""
        return (
            f". The best model, of step {self.step('best')}, is a checkpoint of its own: --checkpoint best of "
            "evaluate, predict and export."
        )

    def wait(self) -> None:
        """Returns when everything is on the disk."""
        try:
            for manager in self._managers.values():
                manager.wait_until_finished()
        except OSError as error:
            raise UserError(f"A checkpoint could not be written ({error}); the one before it stays.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for manager in self._managers.values():
            manager.close()


def best_value(checkpoints: Checkpoints, metric: Metric) -> float | None:
    """The metric of the best model; None where there is none, or where another metric has chosen it."""
    if checkpoints.step("best") is None:
        return None
    found = checkpoints.metadata("best")
    return found["best"] if found["metric"] == metric.name else None


class Saved(NamedTuple):
    """Where a run goes on: after so many steps, in a phase, from 0; and whether the numbers of the next were finite."""

    step: int
    phase: int
    all_finite: bool


def last_checkpoint(run: RunDirectory) -> Saved | None:
    """Where a run goes on; None where it ended before its first checkpoint."""
    if not run.checkpoints.is_dir():
        return None
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        step = checkpoints.step()
        if step is None:
            return None
        mark = run.checkpoints / NOT_FINITE
        stopped_there = mark.is_file() and mark.read_text().strip() == str(step)
        return Saved(step, int(checkpoints.metadata()["phase"]), not stopped_there)


def _scalar(abstract: Any, value: np.generic) -> jax.Array:
    return jax.make_array_from_callback((), abstract.sharding, lambda _: np.asarray(value))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax' remarks on a manager that only reads from the screen; errors are raised."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _mute_unless_done() -> Iterator[None]:
    """Keeps one complaint from the screen: within, and from then on if what is within fails.

    When an array cannot be read, Orbax ends its event loop with the reads of the others still under way. Each of them
    then reports the closed loop with a traceback, before or after the one message that a person needs.
    """
    shown = sys.unraisablehook

    def hook(complaint: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(complaint.exc_value, RuntimeError) and "Event loop is closed" in str(complaint.exc_value)):
            shown(complaint)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = shown
