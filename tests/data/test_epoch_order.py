"""Which example stands where in an epoch."""

import numpy as np

from jaxft.data.epoch_order import epoch_order, occurrences, steps_per_epoch


def test_a_bucket_that_is_smaller_than_a_batch_is_repeated() -> None:
    buckets = np.array([0, 0, 1, 0, 0, 0])
    order = epoch_order(buckets, 4, 0, 0).reshape(-1, 4)
    assert len(order) == steps_per_epoch(buckets, 4) == 2
    assert [2, 2, 2, 2] in order.tolist()


def test_occurrences_count_from_the_start_of_the_epoch() -> None:
    assert occurrences(np.array([4, 4, 1, 4, 1, 0])).tolist() == [0, 1, 0, 2, 1, 0]


def test_without_shuffling_examples_come_in_their_order_over_and_over() -> None:
    buckets = np.zeros(10, np.int32)
    epochs = [epoch_order(buckets, 4, 7, epoch, shuffle=False).tolist() for epoch in range(3)]
    assert [index for epoch in epochs for index in epoch] == [index % 10 for index in range(24)]
    mixed = np.array([0, 1, 0, 0, 1, 0, 0])
    order = epoch_order(mixed, 2, 7, 0, shuffle=False).reshape(-1, 2).tolist()
    assert order == [[0, 2], [1, 4], [3, 5]]
    assert epoch_order(mixed, 2, 7, 1, shuffle=False).reshape(-1, 2).tolist() == [[1, 4], [6, 0], [2, 3]]
    assert epoch_order(np.array([0, 0]), 3, 7, 1, shuffle=False).tolist() == [1, 0, 1]
