import numpy as np
import pytest

from jaxft.data.dataset import name_and_truth
from jaxft.data.source import Example, split_holdout
from jaxft.errors import UserError


class Labels:
    """A source of nothing but labels."""

    classes = ("a", "b", "c")

    def __init__(self, *labels: int) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(np.zeros((1, 1, 3), np.uint8), self.labels[index], str(index))


SOURCE = Labels(*([0] * 50 + [1] * 10 + [2] * 2) * 1)


def test_holdout_is_a_stratified_partition() -> None:
    train, held_out = split_holdout(SOURCE, 0.2, seed=3)
    assert sorted([*train.indices, *held_out.indices]) == list(range(62))
    assert np.bincount([held_out[i].label for i in range(len(held_out))]).tolist() == [10, 2, 1]
    assert train.classes == held_out.classes == SOURCE.classes
    assert train[5].name == str(train.indices[5])


def test_holdout_depends_on_the_seed_alone() -> None:
    assert split_holdout(SOURCE, 0.2, seed=3) == split_holdout(SOURCE, 0.2, seed=3)
    assert split_holdout(SOURCE, 0.2, seed=3)[1].indices != split_holdout(SOURCE, 0.2, seed=4)[1].indices


def test_both_sides_keep_every_class() -> None:
    for fraction in (0.001, 0.999):
        for side in split_holdout(SOURCE, fraction, seed=0):
            assert {side[i].label for i in range(len(side))} == {0, 1, 2}


def test_a_class_with_one_example_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"'c' has 1 example"):
        split_holdout(Labels(0, 0, 1, 1, 2), 0.5, seed=0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_the_fraction_must_be_one(fraction: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        split_holdout(SOURCE, fraction, seed=0)


def test_a_name_may_hold_tabs() -> None:
    assert name_and_truth("a\tb.jpg\t3") == ("a\tb.jpg", "3")
    assert name_and_truth("no truth") == ("no truth", "")
