"""Orbax checkpoints of a run: the last state to go on from, and the best model."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from jaxft.errors import UserError
from jaxft.step import TrainState


class Checkpoints:
    """`FOLDER/last` and `FOLDER/best`, each with one complete checkpoint at any moment.

    Saving goes on in the background. A checkpoint appears by a rename once all of it is on the disk, and only then the
    one before it goes, so that a kill at any moment leaves a whole one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, cleanup_tmp_directories=True)
        try:
            self._managers = {
                which: ocp.CheckpointManager(self._folder / which, options=options) for which in ("last", "best")
            }
        except OSError as error:
            raise UserError(
                f"Checkpoints cannot be written to {folder} ({error}); choose another --workdir."
            ) from error

    def save(self, state: TrainState, notes: Mapping[str, Any], *, best: bool = False) -> None:
        """Saves a state and JSON notes under its step; the work goes on in the background.

        Raises:
            UserError: the disk cannot be written. The checkpoint before stays.
        """
        step = int(state.step)
        manager = self._managers["best" if best else "last"]
        if manager.latest_step() == step:
            return
        arrays = {"model": state.model, "optimizer": state.opt_state}
        if jax.process_count() == 1:
            # Of copies on several devices Orbax would take a slice from each, and compile one for every shape.
            arrays = jax.tree.map(lambda x: x.addressable_data(0) if x.is_fully_replicated else x, arrays)
        arguments = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in arrays.items() if jax.tree.leaves(tree)},
            notes=ocp.args.JsonSave(dict(notes)),
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

    def step(self, which: str = "last") -> int | None:
        """The step of the last or the best checkpoint; None where there is none yet."""
        return self._managers[which].latest_step()

    def notes(self, which: str = "last") -> dict[str, Any]:
        """The JSON notes of a checkpoint."""
        return self._restore(which, notes=ocp.args.JsonRestore())["notes"]

    def model(self, abstract: Mapping[str, Any], which: str = "best") -> dict[str, jax.Array]:
        """The model's arrays of a checkpoint, by dotted path.

        Args:
            abstract: their shapes, types and, where they should lie elsewhere than on the first device, shardings.
        """
        # Said for every array, because a run may have been saved by other devices than there are here.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here)
            for path, leaf in abstract.items()
        }
        return self._restore(which, model=ocp.args.StandardRestore(placed))["model"]

    def optimizer(self, abstract: Any, which: str = "last") -> Any:
        """The optimizer's state of a checkpoint, in the structure of `abstract`."""
        if not jax.tree.leaves(abstract):
            return abstract
        return self._restore(which, optimizer=ocp.args.StandardRestore(abstract))["optimizer"]

    def _restore(self, which: str, **arguments: Any) -> Any:
        step = self.step(which)
        if step is None:
            raise UserError(f"{self._folder} holds no {which} checkpoint; train first.")
        try:
            with _mute_unless_done():
                return self._managers[which].restore(step, args=ocp.args.Composite(**arguments))
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                f"The checkpoint {self._folder / which / str(step)} is damaged or of another model: {reason}"
            ) from error

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
