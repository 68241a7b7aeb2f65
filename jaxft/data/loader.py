"""Batches for training and evaluation, prepared ahead of time by threads or worker processes (Grain)."""

import functools
import itertools
import os
import signal
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import parent_process
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grain
import numpy as np
from absl import flags

from jaxft.data.dataset import Arrays, Dataset
from jaxft.data.epoch_order import epoch_order, occurrences, steps_per_epoch
from jaxft.data.shared import Shared
from jaxft.data.stored import Stored, view_chance
from jaxft.errors import UserError

Batch = dict[str, np.ndarray]
_MAX_THREADS = 16
_ORDERS = 4  # epochs whose order is kept: rows come from two at a time around the turn of one, of short ones from more
_ordering = threading.Lock()


class Batches(Iterator[Batch]):
    """An endless iterator over batches whose workers are at work from the start; close it, or use it in a `with`
    statement.

    What ends begins again with the same workers, but only when the first batch is asked for: nobody works ahead of an
    end.
    """

    def __init__(self, examples: "_TrainExamples | _EvalExamples", start_step: int, workers: int) -> None:
        shared = Shared(examples) if workers else None
        source = examples if shared is None else _ForWorkers(examples, shared)
        dataset = grain.MapDataset.source(source).batch(examples.cut.rows)[start_step:]
        if workers and not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain 0.2.18 reads an absl flag, which only absl's own `main` parses
        threads = 0 if workers else min(os.cpu_count() or 1, _MAX_THREADS)
        reads = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        follow = functools.partial(_follow_parent, None if shared is None else shared.file)
        read = dataset.to_iter_dataset(reads).mp_prefetch(processes, worker_init_fn=follow)
        iterator = iter(grain.experimental.RepeatIterDataset(read))
        iterator.start_prefetch()
        self._copies = workers > 0
        # Closing also forgets the iterator, because Grain's destructors fail when the interpreter is half gone.
        self._running = [iterator]
        self._finalizer = weakref.finalize(self, _close, self._running, shared)  # at the latest when the program ends

    def __next__(self) -> Batch:
        if not self._running:
            raise StopIteration
        batch = next(self._running[0])
        # A copy gives the workers their shared memory back at once, and no array needs the loader to stay open.
        return {key: np.array(value) for key, value in batch.items()} if self._copies else batch

    def close(self) -> None:
        """Stop the threads or worker processes; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Passes(Iterable[Batch]):
    """The batches of an evaluation, as often as they are iterated over, by the same workers, which start with the first
    pass; close it, or use it in a `with` statement. One pass at a time.

    Attributes:
        shapes: how many shapes the batches have.
    """

    def __init__(self, examples: "_EvalExamples", shapes: int, workers: int) -> None:
        self.shapes = shapes
        self._examples, self._workers = examples, workers
        self._batches: Batches | None = None

    def __iter__(self) -> Iterator[Batch]:
        """One pass. One that is left before its end takes its workers with it."""
        self._batches = self._batches or Batches(self._examples, 0, self._workers)
        ended = False
        try:
            yield from itertools.islice(self._batches, len(self._examples) // self._examples.cut.rows)
            ended = True
        finally:
            if not ended:
                self.close()

    def close(self) -> None:
        """Stop the threads or worker processes; a further pass starts others."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def train_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    start_step: int = 0,
    workers: int = 0,
    positions: Sequence[int] | np.ndarray | None = None,
    views: int = 0,
) -> Batches:
    """Endless training batches. Order and augmentation depend on the seed and the epoch alone.

    An epoch is one pass over the examples; see `epoch_order`. An example that an epoch repeats is augmented anew each
    time. Neither the number of workers or hosts nor the step
    at which a run resumes changes what any example looks like or where it stands.

    Args:
        dataset: the examples.
        batch_size: examples in a batch, over all hosts.
        seed: non-negative.
        shuffle: whether each epoch has an order of its own, or that of the dataset.
        start_step: number of batches to leave out at the beginning, to resume.
        workers: number of worker processes; 0 uses threads of this process. Threads start at once and are as fast on a
            few cores; about a fifth of the work holds Python's lock, so from some six cores on processes are faster.
        positions: which examples of each batch this process needs; all by default. See
            `jaxft.training.layout.Layout.positions`.
        views: how many ways an example is augmented in, one epoch after the other; 0 for another one each time.

    Returns:
        An iterator over the examples' arrays, stacked: `B = len(positions)` of one bucket.

    Raises:
        UserError: the batch size is not positive, or larger than the number of examples.
    """
    cut = _Cut.of(batch_size, positions)
    if batch_size > len(dataset):
        raise UserError(
            f"The batch size is {batch_size}, but there are only {len(dataset)} training examples; lower it."
        )
    buckets = dataset.buckets
    epoch = steps_per_epoch(buckets, batch_size) * batch_size
    return Batches(_TrainExamples(dataset, buckets, epoch, seed, shuffle, cut, views), start_step, workers)


def eval_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    workers: int = 0,
    positions: Sequence[int] | np.ndarray | None = None,
) -> Passes:
    """All examples once, bucket by bucket, each in order; the last batch of a bucket is filled up and masked. The same
    again whenever the result is iterated over anew.

    Args:
        dataset: the examples.
        batch_size: examples in a batch, over all hosts.
        workers: number of worker processes; 0 uses threads of this process.
        positions: as of `train_batches`.

    Returns:
        Passes over the examples' arrays, stacked, `B = len(positions)`, with `"mask"` float32 `[B]` and
        `"index"` int32 `[B]`. For an example the mask is 1 and the index its position; for filling they are 0 and -1.

    Raises:
        UserError: the batch size is not positive, or there are no examples.
    """
    cut = _Cut.of(batch_size, positions)
    if len(dataset) == 0:
        raise UserError("There are no examples to evaluate; check the folder or the split.")
    buckets = dataset.buckets
    members = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
    places = [np.pad(found, (0, -len(found) % batch_size), constant_values=-1) for found in members]
    kinds = [np.full(len(place), buckets[found[0]]) for place, found in zip(places, members, strict=True)]
    examples = _EvalExamples(dataset, np.concatenate(places), np.concatenate(kinds), cut)
    return Passes(examples, len(members), workers)


@dataclass(frozen=True)
class _Cut:
    """Which examples of each batch a process has: their positions among the `size` of the batch."""

    size: int
    positions: tuple[int, ...]

    @classmethod
    def of(cls, size: int, positions: Sequence[int] | np.ndarray | None) -> Self:
        if size < 1:
            raise UserError(f"The batch size is {size}; it must be positive.")
        return cls(size, tuple(range(size)) if positions is None else tuple(map(int, positions)))

    @property
    def rows(self) -> int:
        return len(self.positions)

    def position(self, row: int) -> int:
        """Where the `row`-th example of the process stands among those of all batches."""
        step, place = divmod(row, self.rows)
        return step * self.size + self.positions[place]


@dataclass(frozen=True, eq=False)
class _TrainExamples:
    """All examples of one process's training batches, one after the other, as a source for Grain; `epoch` is how many
    an epoch has in all processes together."""

    dataset: Dataset
    buckets: np.ndarray
    epoch: int
    seed: int
    shuffle: bool
    cut: _Cut
    views: int = 0
    orders: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return 2**60  # endless, as far as Grain can count

    def __getitem__(self, row: int) -> Arrays:
        epoch, place = divmod(self.cut.position(row), self.epoch)
        order, before = self._order(epoch)
        index, again = int(order[place]), int(before[place])
        if self.views:
            view = (epoch + again) % self.views
            if isinstance(self.dataset, Stored):
                return self.dataset.view(index, view)
            return self.dataset.training(index, view_chance(self.seed, view, index))
        return self.dataset.training(
            index, np.random.default_rng([self.seed, epoch, index, *([again] if again else [])])
        )

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Which example stands where in an epoch, and how often it has stood before; one thread finds out for all."""
        with _ordering:
            found = self.orders.pop(epoch, None)
            if found is None:
                order = epoch_order(self.buckets, self.cut.size, self.seed, epoch, shuffle=self.shuffle)
                found = order, occurrences(order)
            self.orders[epoch] = found
            while len(self.orders) > _ORDERS:
                del self.orders[next(iter(self.orders))]
        return found


@dataclass(frozen=True, eq=False)
class _EvalExamples:
    """All examples of one process's evaluation batches, one after the other, as a source for Grain."""

    dataset: Dataset
    places: np.ndarray
    buckets: np.ndarray
    cut: _Cut

    def __len__(self) -> int:
        return len(self.places) // self.cut.size * self.cut.rows

    def __getitem__(self, row: int) -> Arrays:
        position = self.cut.position(row)
        index = int(self.places[position])
        if index >= 0:
            return self.dataset.evaluation(index) | {"mask": np.float32(1), "index": np.int32(index)}
        return self.dataset.padding(int(self.buckets[position])) | {"mask": np.float32(0), "index": np.int32(-1)}


@dataclass(frozen=True, eq=False)
class _ForWorkers:
    """Examples as a source for Grain that worker processes unpickle with what all of them share."""

    examples: _TrainExamples | _EvalExamples
    shared: Shared

    def __getstate__(self) -> dict[str, Any]:
        return {"examples": self.shared}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> Arrays:
        return self.examples[row]


def _follow_parent(shared: Path | None, worker: int, workers: int) -> None:
    """In a worker process: leave Ctrl-C and SIGTERM, which a whole group of processes may get, to the parent, which
    closes us in order, and end when it is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, args=(shared,), daemon=True).start()


def _exit_after_parent(shared: Path | None) -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    if shared is not None:
        shared.unlink(missing_ok=True)
    os._exit(1)


def _close(running: list[grain.DatasetIterator], shared: Shared | None) -> None:
    while running:
        running.pop().close()
    if shared is not None:
        shared.close()
