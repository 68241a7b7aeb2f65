import sys

import numpy as np
import pytest

from jaxft.data.digits import Digits
from jaxft.errors import UserError


def test_the_splits_are_a_stratified_partition() -> None:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    train, test = Digits("train"), Digits("test")
    examples = [*map(train.__getitem__, range(len(train))), *map(test.__getitem__, range(len(test)))]
    assert (len(train), len(test)) == (1438, 359)
    assert train.classes == tuple("0123456789")
    assert len({example.name for example in examples}) == 1797
    counts = [np.bincount([split[i].label for i in range(len(split))]) for split in (train, test)]
    assert np.all(np.abs(counts[1] / (counts[0] + counts[1]) - 0.2) < 0.005)
    digits = load_digits()
    for example in examples[::100]:
        number = int(example.name.removeprefix("digit "))
        assert example.label == digits.target[number]
        assert example.image.dtype == np.uint8
        np.testing.assert_allclose(
            example.image / 255 * 16, np.repeat(digits.images[number][..., None], 3, -1), atol=0.04
        )


def test_the_split_is_fixed() -> None:
    test = Digits("test")
    assert [test[i].name for i in range(4)] == ["digit 5", "digit 9", "digit 12", "digit 14"]


def test_an_unknown_split() -> None:
    with pytest.raises(UserError, match="'val'"):
        Digits("val")


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"pip install jaxft\[demo\]"):
        Digits("train")
