"""Orbax checkpoints of a run: the last state to go on from, and the best model."""

import dataclasses
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from converters.ledger import MismatchError
from jaxft.errors import NotFiniteError, UserError
from jaxft.places import absolute, in_bucket, write_whole
from jaxft.run import RunDirectory
from jaxft.tasks.task import Metric
from jaxft.training.checksums import damage
from jaxft.training.layout import first_says
from jaxft.training.orbax_items import METADATA, Manager, handlers, mute_unless_done, quiet
from jaxft.training.state import TrainState

NOT_FINITE = "not_finite"  # a file that holds the step after which a run has met numbers that are not finite
ATTEMPTS = 5  # of a reader, beside which a run may replace a checkpoint
PAUSE = 0.2  # seconds before another one
Which = Literal["best", "last"] | int
"""A checkpoint of a run: the best or the last one, or one that was kept by its step."""


class Checkpoints:
    """`FOLDER/last` and `FOLDER/best`, each with a complete checkpoint at any moment.

    Saving goes on in the background. A checkpoint appears by a rename once all of it is on the disk, and only then the
    one before it goes, so that a kill at any moment leaves a whole one.

    Args:
        keep: how many of the last ones stay.
        read_only: of a run that may be under way in another process: nothing is created, cleared away or saved.
    """

    def __init__(self, folder: Path, *, keep: int = 1, read_only: bool = False) -> None:
        self._folder, self._keep, self._read_only = absolute(folder), keep, read_only
        try:
            self._managers = {
                which: self._manager(which)
                for which in ("last", "best")
                if not read_only or (self._folder / which).is_dir()
            }
        except OSError as error:
            trouble = "read from" if read_only else "written to"
            raise UserError(f"Checkpoints cannot be {trouble} {folder} ({error}); choose another --workdir.") from error

    @property
    def _run(self) -> Path:
        return self._folder.parent

    def _manager(self, which: str) -> ocp.CheckpointManager:
        """Orbax' manager of a folder; it lists what is there, which a run under way may just be replacing."""
        for attempt in range(ATTEMPTS):
            try:
                with quiet():
                    if self._read_only:
                        options = ocp.CheckpointManagerOptions(read_only=True)
                    else:
                        options = ocp.CheckpointManagerOptions(
                            max_to_keep=self._keep if which == "last" else 1, create=True, cleanup_tmp_directories=True
                        )
                    return Manager(self._folder / which, options=options, handler_registry=handlers())
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
        items = [name for name, tree in arrays.items() if jax.tree.leaves(tree)]
        facts = {"items": items, "shapes": {path: array.shape for path, array in arrays["model"].items()}}
        arguments = ocp.args.Composite(
            **{name: ocp.args.StandardSave(arrays[name]) for name in items},
            metadata=ocp.args.JsonSave({**metadata, **facts}),
        )
        if jax.process_count() > 1:
            # Both managers number their barriers among the processes alike; a save beside another's end once hung.
            self.wait()
        with self._writing(f"The checkpoint of step {step}"):
            manager.save(step, args=arguments)

    def not_finite(self, step: int, run: RunDirectory) -> NotFiniteError:
        """Notes that the numbers of the step after `step`, the last checkpoint's, were not finite: the error for it."""
        if jax.process_index() == 0:
            write_whole(self._folder / NOT_FINITE, f"{step}\n".encode())
        return NotFiniteError(
            f"The loss or its gradient was not finite in step {step + 1}. The last good state, of step {step}, is "
            f"saved in {run.path}. Go on from it with --resume and a lower --optimizer.learning-rate, or start again "
            "with a warm-up or --optimizer.clip-norm."
        )

    def step(self, which: str = "last") -> int | None:
        """The step of the last or the best checkpoint; None where there is none yet."""
        return self._managers[which].latest_step() if which in self._managers else None

    def kept(self) -> list[int]:
        """The steps of the last checkpoints, those that were kept, in order."""
        return self._steps("last")

    def check(self, which: Which) -> None:
        """Looks whether all of a checkpoint is as it was written.

        Raises:
            UserError: it is not, or there is none.
        """
        step, found = self._restore(which, {METADATA: ocp.args.JsonRestore()})
        if reason := self._damage(self._find(which)[0], step, found[METADATA]["items"]):
            raise UserError(self._complaint(self._find(which)[0], step, reason))

    def discard_best(self) -> None:
        """Removes the best checkpoint."""
        step = self.step("best")
        assert step is not None
        self._managers["best"].delete(step)

    def metadata(self, which: Which = "last") -> dict[str, Any]:
        """The JSON metadata of a checkpoint, the names of its `items`, and the `shapes` of its model by path."""
        return self._restore(which, {METADATA: ocp.args.JsonRestore()})[1][METADATA]

    def state(self, abstract: TrainState) -> TrainState:
        """The last state, in the structure, types and shardings of `abstract`."""
        named = {"model": abstract.model, "optimizer": abstract.opt_state, "ema": abstract.ema}
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in named.items() if jax.tree.leaves(tree)}
        step, found = self._restore("last", arguments)
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
        self, abstract: Mapping[str, Any], which: Which = "best", *, averaged: Collection[str] = ()
    ) -> tuple[int, dict[str, jax.Array]]:
        """The step of a checkpoint and its model's arrays, by dotted path.

        Args:
            which: `best`, `last`, or the step of one that was kept.
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
        step, found = self._restore(which, arguments)
        return step, found["model"] | (found["ema"] if averaged else {})

    def _steps(self, which: str) -> list[int]:
        return sorted(self._managers[which].all_steps()) if which in self._managers else []

    def _find(self, wanted: Which) -> tuple[str, int | None]:
        """The folder and the step of a checkpoint; None where there is none."""
        if isinstance(wanted, str):
            return wanted, self.step(wanted)
        return next(((name, wanted) for name in ("last", "best") if wanted in self._steps(name)), ("last", None))

    def _restore(self, wanted: Which, arguments: Mapping[str, Any]) -> tuple[int, Any]:
        """The step of a checkpoint and some of its items, all of the same one; nothing is read of a damaged one."""
        for attempt in range(ATTEMPTS):
            which, step = self._find(wanted)
            if step is None:
                if isinstance(wanted, str):
                    raise UserError(f"{self._run} holds no {which} checkpoint. {self._advice(which)}")
                there = ", ".join(map(str, sorted({*self._steps("last"), *self._steps("best")}))) or "none"
                raise UserError(f"{self._run} holds no checkpoint of step {wanted}; those that it holds: {there}.")
            reason = self._damage(which, step, {METADATA, *arguments})
            if reason is None:
                try:
                    self._refuse_other_model(which, step, arguments)
                    with mute_unless_done(), quiet():
                        return step, self._managers[which].restore(step, args=ocp.args.Composite(**arguments))
                except UserError:
                    raise
                except MemoryError:
                    raise
                except Exception as error:  # which is all that Orbax says of an array that it cannot read
                    reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
                    if "RESOURCE_EXHAUSTED" in reason:
                        raise
            if self._read_only:
                self._managers[which] = self._manager(which)
            if attempt + 1 == ATTEMPTS or self._find(wanted) == (which, step):  # no run under way has replaced it
                raise UserError(self._complaint(which, step, reason))
        raise AssertionError("every attempt returns or raises")

    def _damage(self, which: str, step: int, items: Iterable[str]) -> str | None:
        """What is wrong with some items of a checkpoint, which process 0 reads for all; None where they are whole."""
        folder, reason = self._folder / which / str(step), None
        if jax.process_index() == 0:
            reason = next(filter(None, (damage(folder / item) for item in items)), None)
        return None if first_says(reason is None) else reason or "process 0 has found so"

    def _refuse_other_model(self, which: str, step: int, arguments: Mapping[str, Any]) -> None:
        """Raises a MismatchError where a checkpoint has other arrays than those that are asked for, before Orbax sees
        it, which would not say which."""
        if "model" not in arguments:
            return
        with quiet():
            only = ocp.args.Composite(**{METADATA: ocp.args.JsonRestore()})
            shapes = self._managers[which].restore(step, args=only)[METADATA]["shapes"]
        there = {path: tuple(shape) for path, shape in shapes.items()}
        here = {path: tuple(leaf.shape) for path, leaf in arguments["model"].item.items()}
        odd = [
            f"{path} is {there.get(path, 'missing')} there and {here.get(path, 'missing')} here"
            for path in sorted(there.keys() | here.keys())
            if there.get(path) != here.get(path)
        ]
        if odd:
            claim = f"The {which} checkpoint of {self._run}, of step {step}, is of another model"
            raise MismatchError(f"{claim} ({len(odd)} reason{'s' * (len(odd) > 1)}).", odd)

    def _complaint(self, which: str, step: int, reason: str) -> str:
        return (
            f"The {which} checkpoint of {self._run}, of step {step}, is damaged: {reason}. {self._advice(which, step)}"
        )

    def _advice(self, which: str, damaged: int | None = None) -> str:
        """What else there is, where a checkpoint cannot be read, and what to type."""
        other = "best" if which == "last" else "last"
        remove = "gcloud storage rm -r" if in_bucket(self._folder) else "rm -r"
        step = self.step(other)
        if step is None and self.step(which) is None:
            return "Train first."
        if whole := [step for step in self._steps(which) if step != damaged and self._is_whole(which, step)]:
            if damaged != self.step(which):
                return f"That of step {whole[-1]} is whole: --checkpoint {whole[-1]}."
            place = self._folder / which / str(damaged)
            return (
                f"That of step {whole[-1]} is whole, and the run's last one after `{remove} {place}`; a best one of a "
                "later step than that goes, too, when the run goes on."
            )
        if step is None or not self._is_whole(other, step):
            return "No other one is whole; take the directory from a copy, or train again with another --workdir."
        found = (
            f"The {other} one, of step {step}, is whole: evaluate, predict and export take it with --checkpoint "
            f"{other} (in Python checkpoint='{other}')"
        )
        if other == "last" and self.step(which) is None:
            return f"{found}."
        if other == "last":
            return f"{found}, and training goes on without the best one after `{remove} {self._folder / which}`."
        return (
            f"{found}, and another run starts from it with `--pretrained.source model.pth` after `python -m "
            f"jaxft.export --run {self._run} --checkpoint best --output model.pth`."
        )

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Within, an error that says that nothing can be written becomes a UserError."""
        try:
            yield
        except Exception as error:  # of a bucket TensorStore and gcsfs raise kinds that have nothing in common
            memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
            if not isinstance(error, OSError) and (memory or not in_bucket(self._folder)):
                raise
            raise UserError(f"{what} could not be written ({error}); the one before it stays.") from error

    def _is_whole(self, which: str, step: int) -> bool:
        """Whether a model can be had from a checkpoint."""
        return not any(damage(self._folder / which / str(step) / item) for item in (METADATA, "model"))

    def wait(self) -> None:
        """Returns when everything is on the disk."""
        with self._writing("A checkpoint"):
            for manager in self._managers.values():
                manager.wait_until_finished()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for manager in self._managers.values():
            manager.close()


def best_value(checkpoints: Checkpoints, metric: Metric) -> float | None:
    """The metric of the best model; None where there is none, or where another metric or direction has chosen it.

    A best model that is later than the last checkpoint is of what a run did that goes on from before; it is removed.
    """
    best, last = checkpoints.step("best"), checkpoints.step()
    if best is None:
        return None
    if last is not None and best > last:
        checkpoints.discard_best()
        return None
    found = checkpoints.metadata("best")
    return found["best"] if found["metric"] == list(metric) else None


def _scalar(abstract: Any, value: np.generic) -> jax.Array:
    return jax.make_array_from_callback((), abstract.sharding, lambda _: np.asarray(value))
