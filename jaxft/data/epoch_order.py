"""Which example stands where in an epoch: batches of one bucket each, in an order of the epoch's own."""

import numpy as np


def steps_per_epoch(buckets: np.ndarray, batch_size: int) -> int:
    """Batches in an epoch: what is whole of every bucket, and one of a bucket that is smaller than a batch."""
    counts = np.unique(buckets, return_counts=True)[1]
    return int(np.maximum(counts // batch_size, 1).sum())


def epoch_order(buckets: np.ndarray, batch_size: int, seed: int, epoch: int, *, shuffle: bool = True) -> np.ndarray:
    """Which example stands where in an epoch: int `[steps_per_epoch * batch_size]`, batches of one bucket each.

    One permutation of all examples is dealt out by bucket. The last incomplete batch of a bucket is left out, another
    one in each epoch; a bucket that is smaller than a batch is repeated until it fills one. Batches follow each other
    as their first examples do in the permutation.

    Without `shuffle` the examples of a bucket follow each other as in the dataset, over and over: an epoch begins with
    those that the one before had no room for.
    """
    size = len(buckets)
    permutation = np.random.default_rng([seed, epoch]).permutation(size) if shuffle else np.arange(size)
    place = np.argsort(permutation)
    batches, turns = [], []
    for bucket in np.unique(buckets):
        members = permutation[buckets[permutation] == bucket]
        count = max(len(members) // batch_size, 1) * batch_size
        start = 0 if shuffle else epoch * count % len(members)
        laps, positions = np.divmod(start + np.arange(count), len(members))
        batches.append(members[positions].reshape(-1, batch_size))
        turns.append((laps * size + place[members[positions]])[::batch_size])
    return np.concatenate(batches)[np.argsort(np.concatenate(turns), kind="stable")].ravel()


def occurrences(order: np.ndarray) -> np.ndarray:
    """How often what stands at each place of `order` has stood before: int, the shape of `order`."""
    sorted_places = np.argsort(order, kind="stable")
    found = order[sorted_places]
    starts = np.flatnonzero(np.r_[True, found[1:] != found[:-1]])
    counts = np.empty_like(order)
    counts[sorted_places] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return counts
