"""The items of a checkpoint as Orbax writes and reads them: with checksums, and without a word on the screen."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxft.places import in_bucket
from jaxft.training.checksums import write_checksums

ARRAYS, METADATA = ("model", "ema", "optimizer"), "metadata"  # the items of a checkpoint, each a folder


class _Arrays(ocp.StandardCheckpointHandler):
    """Orbax' own, and on a disk a list of checksums in the folder before that appears under its name."""

    def finalize(self, directory: Any) -> None:
        super().finalize(directory)
        if not in_bucket(directory):  # which keeps checksums itself
            write_checksums(Path(directory))


class _Json(ocp.JsonCheckpointHandler):
    """The same for JSON."""

    def finalize(self, directory: Any) -> None:
        super().finalize(directory)
        if not in_bucket(directory):  # which keeps checksums itself
            write_checksums(Path(directory))


class Manager(ocp.CheckpointManager):
    """Orbax' own, but that it does not ask whether a preemption was agreed upon.

    JAX takes the number of the last question for where a process is, and Orbax, in threads of its own, asks with others
    than `Stop.agree`: processes would agree on a place that they have passed, and never stop.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def handlers() -> ocp.handlers.CheckpointHandlerRegistry:
    """What writes and reads each item of a checkpoint."""
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for name in ARRAYS:
        arrays = _Arrays()
        registry.add(name, ocp.args.StandardSave, arrays)
        registry.add(name, ocp.args.StandardRestore, arrays)
    json = _Json()
    registry.add(METADATA, ocp.args.JsonSave, json)
    registry.add(METADATA, ocp.args.JsonRestore, json)
    return registry


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what Orbax remarks from the screen; errors are raised."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def mute_unless_done() -> Iterator[None]:
    """Keeps Orbax' complaints from the screen: within, and from then on if what is within fails.

    Where a run under way removes a checkpoint that is just being read, Orbax ends its event loop with the reads of the
    other arrays still under way. Each of them then complains of it with a traceback, at any time until the process
    ends; and the reading is done again with the new checkpoint.
    """
    shown, logger = sys.unraisablehook, logging.getLogger("asyncio")
    level = logger.level

    def hook(complaint: "sys.UnraisableHookArgs") -> None:
        if not any(sign in str(complaint.exc_value) for sign in ("Event loop is closed", "TensorStore")):
            shown(complaint)

    sys.unraisablehook = hook
    logger.setLevel(logging.CRITICAL)  # "Future exception was never retrieved"
    warned = warnings.catch_warnings()
    warned.__enter__()
    warnings.filterwarnings("ignore", r"coroutine '(Store\.|_read_array).*' was never awaited", RuntimeWarning)
    yield
    warned.__exit__(None, None, None)
    logger.setLevel(level)
    sys.unraisablehook = shown


def arrays_in(item: Path) -> dict[str, np.ndarray]:
    """The arrays that Orbax saved in a folder, by whatever devices, by their place in the tree."""
    with ocp.PyTreeCheckpointer() as reader, quiet():
        tree = reader.metadata(item.resolve()).item_metadata.tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found = reader.restore(item.resolve(), restore_args=kinds)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(found)[0]
    }
