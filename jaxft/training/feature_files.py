"""Features on disk: computed once for the same weights, data, views and code, and mapped into memory."""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Mapping
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
from jaxft.training.own import NOTHING_OWN
from jaxft.training.setup import Setup
from jaxft.training.step import Compiled
from jaxft.training.stopping import raise_if_agreed

Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]
"""By the name of an array, its shape and its type, of one view of one example."""
UNFINISHED, DAY = ".unfinished-", 24 * 3600  # seconds
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
    """The features of all views, from the cache folder or computed and kept there; what no other run could tell from
    its own is kept for as long as this one lasts.

    Args:
        arrays: the model's, on their devices.

    Raises:
        UserError: the folder has no room, or the first half mixes the examples of a batch.
    """
    shapes = _shapes(setup, halves, views)
    key, place = _key(setup, halves, arrays, views), cache_folder() / "features"
    folder = None if key is None else place / key
    there = folder is not None and set(gathered(b"1" if folder.is_dir() else b"0")) == {b"1"}
    if there and folder is not None:
        found = _mapped(folder, shapes, len(views), "r")
    else:
        scratch = _scratch(place, shapes, len(views))
        try:
            _write(setup, halves, arrays, views, _mapped(scratch, shapes, len(views), "r+"))
            found = _mapped(scratch, shapes, len(views), "r")
            if folder is not None:
                _rename(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # files that are mapped stay as long as they are
    ways = max(views.count, 1)
    examples = Stored(
        views.original, {name: array.reshape(ways, -1, *array.shape[1:]) for name, array in found.items()}
    )
    size = written(sum(array.nbytes for array in found.values()))
    what = f"{len(examples):,} examples" + (f" in {views.count} view(s)" if views.count else "")
    where = "" if folder is None else f" in {folder}"
    return Features(examples, f"{what}: {size}{where}{', computed before' if there else ''}")


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
            raise_if_agreed()
            needed = {name: array for name, array in batch.items() if name not in ("mask", "index")}
            found = first(arrays, layout.batch(needed))
            if number == 0:
                rolled = first(arrays, layout.batch({name: np.roll(array, 1, 0) for name, array in needed.items()}))
                _check_apart(found, rolled, layout.positions(halves.rows))
            index = fetch(layout.batch({"index": batch["index"]})["index"])
            for name, array in found.items():
                files[name][index[index >= 0]] = fetch(array)[index >= 0]
            done += int((index >= 0).sum())
            counted(done, len(views))
    for file in files.values():
        file.flush()  # type: ignore[attr-defined]


def _check_apart(found: Mapping[str, Array], rolled: Mapping[str, Array], own: np.ndarray) -> None:
    """Raises a UserError where what an image gives depends on its place in the batch; each process looks at its own
    rows, which it has rolled among themselves."""
    for name, array in found.items():
        one, other = (fetch(part)[own].astype(np.float64) for part in (array, rolled[name]))
        if not np.allclose(np.roll(one, 1, 0), other, rtol=0, atol=TOLERANCE * max(float(np.abs(one).max()), 1e-30)):
            raise UserError(MIXES)


def _scratch(place: Path, shapes: Shapes, count: int) -> Path:
    """A new folder of files of their full sizes, for which there is room then.

    Raises:
        UserError: there is none.
    """
    sizes = {name: count * math.prod(shape) * kind.itemsize for name, (shape, kind) in shapes.items()}
    try:
        place.mkdir(parents=True, exist_ok=True)
        for left in place.glob(f"{UNFINISHED}*"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > DAY:
                shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=place))
        try:
            for name, size in sizes.items():
                with open(scratch / name, "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, max(size, 1))
        except OSError:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(
            f"Features of {written(sum(sizes.values()))} cannot be kept in {place} ({error}); lower data.views, or set "
            "JAXFT_CACHE to a folder with more room."
        ) from error
    return scratch


def _rename(scratch: Path, folder: Path) -> None:
    """Gives a folder its name, unless another process, or run, was as fast."""
    try:
        os.replace(scratch, folder)
    except OSError as error:
        if not folder.is_dir():
            raise UserError(f"Features cannot be kept in {folder} ({error}); set JAXFT_CACHE.") from error


def _key(setup: Setup, halves: Halves, arrays: Mapping[str, Array], views: Views) -> str | None:
    """What tells these features from all others: code, settings, weights, and the files; None where a dataset or a
    model of the user's own is in the way of knowing."""
    dataset = views.original
    if not isinstance(dataset, ImageDataset) or setup.own != NOTHING_OWN:
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
