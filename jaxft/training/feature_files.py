"""Features on disk: computed once for the same weights, data, views and code, and mapped into memory."""

import hashlib
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from jaxft.activity import doing
from jaxft.config import to_json
from jaxft.data.dataset import ImageDataset
from jaxft.data.loader import eval_batches
from jaxft.data.stored import Stored, Views
from jaxft.download import cache_folder
from jaxft.errors import UserError
from jaxft.processes import code_version, gathered
from jaxft.reporting.written import written
from jaxft.training.halves import Halves
from jaxft.training.layout import fetch
from jaxft.training.setup import Setup
from jaxft.training.step import Compiled

Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]
"""By the name of an array, its shape and its type, of one view of one example."""
TOLERANCE = 1e-3  # of the largest number, between what an image gives among others and among others again


MIXES = (
    "stored_features: what an image gives in front of the trained part depends on the other images of its batch, as "
    "behind a BatchNorm with the batch's statistics; set batch_norm of the phases to running, or leave it out."
)


class Features(NamedTuple):
    """Examples by their features, and what to say of them."""

    examples: Stored
    said: str


def computed(setup: Setup, halves: Halves, arrays: Mapping[str, Array], views: Views) -> Features:
    """The features of all views, from the cache folder or computed and kept there.

    Args:
        arrays: the model's, on their devices.

    Raises:
        UserError: the folder has no room, or the first half mixes the examples of a batch.
    """
    shapes = _shapes(setup, halves, views)
    key = _key(setup, halves, arrays, views)
    folder = cache_folder() / "features" / (key or f"own-{os.getpid()}")
    there = key is not None and set(gathered(b"1" if folder.is_dir() else b"0")) == {b"1"}
    if not there:
        with _made(
            folder, sum(len(views) * math.prod(shape) * kind.itemsize for shape, kind in shapes.values())
        ) as new:
            _write(setup, halves, arrays, views, _mapped(new, shapes, len(views), "w+"))
    found = _mapped(folder, shapes, len(views), "r")
    if key is None:
        shutil.rmtree(folder)  # its files last as long as they are mapped, and no other run could tell what they are of
    ways = max(views.count, 1)
    examples = Stored(
        views.original, {name: array.reshape(ways, -1, *array.shape[1:]) for name, array in found.items()}
    )
    size = written(sum(array.nbytes for array in found.values()))
    what = f"{len(examples):,} examples" + (f" in {views.count} view(s)" if views.count else "")
    return Features(examples, f"{what}: {size} in {folder}{', computed before' if there else ''}")


def _shapes(setup: Setup, halves: Halves, views: Views) -> Shapes:
    state = setup.abstract_state(setup.stages[0])
    batch = setup.layout.abstract_batch(views.evaluation(0), halves.rows)
    found = jax.eval_shape(halves.first, state.model, batch)
    return {name: (tuple(one.shape[1:]), np.dtype(one.dtype)) for name, one in found.items()}


def _mapped(folder: Path, shapes: Shapes, count: int, mode: str) -> dict[str, np.ndarray]:
    """An array a file, `[views of all examples, ...]`."""
    return {
        name: np.memmap(folder / name, kind, mode, shape=(count, *shape))  # type: ignore[call-overload]
        for name, (shape, kind) in shapes.items()
    }


def _write(
    setup: Setup, halves: Halves, arrays: Mapping[str, Array], views: Views, files: Mapping[str, np.ndarray]
) -> None:
    """Computes all views, each process its share, and writes them whole in every process."""
    layout, done = setup.layout, 0
    first = Compiled(halves.first, compiling=lambda _: doing("compiling the features"))
    passes = eval_batches(
        views,
        batch_size=halves.rows,
        workers=setup.config.data.workers,
        positions=layout.positions(halves.rows),
    )
    with passes, doing("computing features") as counted:
        for number, batch in enumerate(passes):
            needed = {name: array for name, array in batch.items() if name not in ("mask", "index")}
            found = first(arrays, layout.batch(needed))
            if number == 0 and jax.process_count() == 1:
                _check_apart(found, first(arrays, layout.batch({n: np.roll(a, 1, 0) for n, a in needed.items()})))
            index = fetch(layout.batch({"index": batch["index"]})["index"])
            for name, array in found.items():
                files[name][index[index >= 0]] = fetch(array)[index >= 0]
            done += int((index >= 0).sum())
            counted(done, len(views))
    for file in files.values():
        file.flush()  # type: ignore[attr-defined]


def _check_apart(found: Mapping[str, Array], rolled: Mapping[str, Array]) -> None:
    """Raises a UserError where what an image gives depends on its place in the batch."""
    for name, array in found.items():
        one, other = (np.asarray(part).astype(np.float64) for part in (array, rolled[name]))
        if not np.allclose(np.roll(one, 1, 0), other, rtol=0, atol=TOLERANCE * max(float(np.abs(one).max()), 1e-30)):
            raise UserError(MIXES)


@contextmanager
def _made(folder: Path, size: int) -> Iterator[Path]:
    """A new folder for so many bytes, which gets its name once all is written."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder.parent).free) < size:
            raise UserError(
                f"The features take {written(size)}, but {folder.parent} has {written(free)} left; lower data.views, "
                "or set JAXFT_CACHE to a folder with more room."
            )
        scratch = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        try:
            yield scratch
            try:
                os.replace(scratch, folder)
            except OSError:
                if not folder.is_dir():  # which another process, or run, has made meanwhile
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UserError(f"Features cannot be kept in {folder.parent} ({error}); set JAXFT_CACHE.") from error


def _key(setup: Setup, halves: Halves, arrays: Mapping[str, Array], views: Views) -> str | None:
    """What tells these features from all others: code, settings, weights, and the files; None where a dataset or a
    model of the user's own is in the way of knowing."""
    dataset = views.original
    if not isinstance(dataset, ImageDataset) or setup.source.own is not None:
        return None
    settings = json.loads(to_json(setup.config))
    weights = 0
    for path in sorted(set(arrays) - halves.varying):
        weights = zlib.crc32(fetch(arrays[path]).tobytes(), zlib.crc32(path.encode(), weights))
    parts = (
        *(code_version(), jax.__version__, weights, sorted(halves.varying), views.count, halves.rows, halves.large),
        *(views.seed, settings["model"], settings["task"], settings["precision"], dataset.names(), dataset.contents()),
    )
    return hashlib.sha256(json.dumps(parts, default=str).encode(errors="surrogatepass")).hexdigest()[:24]
