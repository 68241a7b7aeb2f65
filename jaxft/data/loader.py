"""Batches for training and evaluation, prepared ahead of time by threads or worker processes (Grain)."""

import functools
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import parent_process
from types import TracebackType
from typing import Protocol, Self

import grain
import numpy as np
from absl import flags

from jaxft.data.photo import ImageData
from jaxft.data.source import Source
from jaxft.errors import UserError

Batch = dict[str, np.ndarray]
Row = dict[str, np.ndarray | np.generic]
TrainTransform = Callable[[ImageData, np.random.Generator], np.ndarray]
_MAX_THREADS = 16


class EvalTransform(Protocol):
    """From an image to uint8 `[size, size, 3]`, without chance."""

    @property
    def size(self) -> int: ...

    def __call__(self, image: ImageData) -> np.ndarray: ...


class Batches(Iterator[Batch]):
    """An iterator over batches whose workers are at work from the start; close it, or use it in a `with` statement."""

    def __init__(self, examples: "_TrainExamples | _EvalExamples", start_step: int, workers: int) -> None:
        dataset = grain.MapDataset.source(examples).batch(examples.rows)[start_step:]
        if workers and not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain 0.2.18 reads an absl flag, which only absl's own `main` parses
        threads = 0 if workers else min(os.cpu_count() or 1, _MAX_THREADS)
        reads = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        self._shared_memory = workers > 0
        iterator = iter(dataset.to_iter_dataset(reads).mp_prefetch(processes, worker_init_fn=_follow_parent))
        iterator.start_prefetch()
        # Closing also forgets the iterator, because Grain's destructors fail when the interpreter is half gone.
        self._running = [iterator]
        self._finalizer = weakref.finalize(self, _close, self._running)  # at the latest when the program ends

    def __next__(self) -> Batch:
        if not self._running:
            raise StopIteration
        batch = next(self._running[0])
        # A copy gives the workers their shared memory back at once, and no array needs the loader to stay open.
        return {key: np.array(value) for key, value in batch.items()} if self._shared_memory else batch

    def close(self) -> None:
        """Stop the threads or worker processes; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def train_batches(
    source: Source,
    transform: TrainTransform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Batches:
    """Endless training batches. Order and augmentation depend on the seed and the epoch alone.

    An epoch is one permutation of the source, less the last incomplete batch. Neither the number of workers or hosts
    nor the step at which a run resumes changes what any example looks like or where it stands.

    Args:
        source: the examples.
        transform: from an image and a random generator to uint8 `[H, W, 3]`, the same shape for all images.
        batch_size: examples in a batch, over all hosts.
        seed: non-negative.
        start_step: number of batches to leave out at the beginning, to resume.
        workers: number of worker processes; 0 uses threads of this process. Threads start at once and are as fast on a
            few cores; about a fifth of the work holds Python's lock, so from some six cores on processes are faster.
        host: which of the hosts this is.
        hosts: number of hosts; each gets an equal, contiguous part of every batch.

    Returns:
        An iterator over `{"image": uint8 [B, H, W, 3], "label": int32 [B]}` with `B = batch_size / hosts`. When an
        image cannot be read, it raises a UserError that names the image.

    Raises:
        UserError: the batch size is not a multiple of the hosts, or larger than the source.
    """
    _check_batch_size(batch_size, hosts)
    if batch_size > len(source):
        raise UserError(
            f"The batch size is {batch_size}, but there are only {len(source)} training examples; lower it."
        )
    return Batches(_TrainExamples(source, transform, seed, batch_size, host, hosts), start_step, workers)


def eval_batches(
    source: Source,
    transform: EvalTransform,
    *,
    batch_size: int,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Batches:
    """All examples once, in order; the last batch is filled up and masked, so that every host gets equal batches.

    Args:
        source: the examples.
        transform: from an image to uint8 `[size, size, 3]`.
        batch_size: examples in a batch, over all hosts.
        workers: number of worker processes; 0 uses threads of this process.
        host: which of the hosts this is.
        hosts: number of hosts; each gets an equal, contiguous part of every batch.

    Returns:
        An iterator over `{"image": uint8 [B, size, size, 3], "label", "index": int32 [B], "mask": float32 [B]}` with
        `B = batch_size / hosts`. For an example the mask is 1 and the index its position in the source; for filling
        they are 0 and -1, the image is black and the label 0. When an image cannot be read, it raises a UserError that
        names the image.

    Raises:
        UserError: the batch size is not a multiple of the hosts, or the source is empty.
    """
    _check_batch_size(batch_size, hosts)
    if len(source) == 0:
        raise UserError("There are no examples to evaluate; check the folder or the split.")
    return Batches(_EvalExamples(source, transform, batch_size, host, hosts), 0, workers)


@dataclass(frozen=True)
class _TrainExamples:
    """All rows of one host's training batches, one after the other, as a source for Grain."""

    source: Source
    transform: TrainTransform
    seed: int
    batch_size: int
    host: int
    hosts: int

    @property
    def rows(self) -> int:
        return self.batch_size // self.hosts

    def __len__(self) -> int:
        return 2**60  # endless, as far as Grain can count

    def __getitem__(self, row: int) -> Row:
        size = len(self.source)
        position = _global_position(row, self.rows, self.host, self.hosts)
        epoch, place = divmod(position, size - size % self.batch_size)
        index = int(_permutation(self.seed, epoch, size)[place])
        rng = np.random.default_rng([self.seed, epoch, index])
        return _load(self.source, index, lambda image: self.transform(image, rng))


@dataclass(frozen=True)
class _EvalExamples:
    """All rows of one host's evaluation batches, one after the other, as a source for Grain."""

    source: Source
    transform: EvalTransform
    batch_size: int
    host: int
    hosts: int

    @property
    def rows(self) -> int:
        return self.batch_size // self.hosts

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size) * self.rows

    def __getitem__(self, row: int) -> Row:
        index = _global_position(row, self.rows, self.host, self.hosts)
        if index < len(self.source):
            return _load(self.source, index, self.transform) | {"mask": np.float32(1), "index": np.int32(index)}
        black = np.zeros((self.transform.size, self.transform.size, 3), np.uint8)
        return {"image": black, "label": np.int32(0), "mask": np.float32(0), "index": np.int32(-1)}


def _global_position(row: int, rows: int, host: int, hosts: int) -> int:
    """Where the `row`-th row of a host stands among the rows of all hosts, `rows` a host and batch."""
    step, place = divmod(row, rows)
    return (step * hosts + host) * rows + place


@functools.lru_cache(maxsize=4)  # rows come from two epochs at a time around the turn of an epoch
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def _load(source: Source, index: int, transform: Callable[[ImageData], np.ndarray]) -> Row:
    example = source[index]
    try:
        return {"image": transform(example.image), "label": np.int32(example.label)}
    except UserError as error:
        raise UserError(f"Example {example.name!r} cannot be used: {error}") from error


def _follow_parent(worker: int, workers: int) -> None:
    """In a worker process: leave Ctrl-C to the parent, which closes us in order, and end when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _close(running: list[grain.DatasetIterator]) -> None:
    while running:
        running.pop().close()


def _check_batch_size(batch_size: int, hosts: int) -> None:
    if batch_size < 1 or batch_size % hosts:
        raise UserError(f"The batch size is {batch_size}; it must be a positive multiple of the {hosts} host(s).")
