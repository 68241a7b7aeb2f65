"""Generated pictures show what their targets say."""

from collections.abc import Callable

import numpy as np
import pytest

from jaxft.data.shapes import COUNTS, SIDE, GeneratedPictures, generate_discs, generate_shapes
from jaxft.errors import UserError


def differing(pixels: np.ndarray) -> np.ndarray:
    """bool `[H, W]`: where a picture is not of the color of its ground, which all its corners have."""
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    return (np.abs(pixels - ground) > 64).sum(axis=-1) >= 2


def test_discs_are_where_and_as_large_as_they_are_said_to_be() -> None:
    source = generate_discs("test")
    assert source.classes == ("x", "y", "size")
    assert len(source) == COUNTS["test"]
    for index in range(0, len(source), 10):
        example = source[index]
        assert example.image.shape == (SIDE, SIDE, 3)
        inside = differing(example.image)
        rows, columns = np.nonzero(inside)
        measured = columns.mean() + 0.5, rows.mean() + 0.5, 2 * np.sqrt(inside.sum() / np.pi)
        np.testing.assert_allclose(example.label, measured, atol=1)


def test_shapes_are_those_of_the_labels() -> None:
    source = generate_shapes("test")
    assert source.classes == ("circle", "square", "triangle")
    assert 0.4 < source.targets.mean() < 0.6
    assert set(source.targets.sum(axis=1)) == {0, 1, 2, 3}
    shares = np.array([1, 2 / np.pi, 3 * np.sqrt(3) / 4 / np.pi])  # of each shape in the circle through its corners
    judged = np.zeros(3, int)
    for example in map(source.__getitem__, range(len(source))):
        inside = differing(example.image)
        assert inside.mean() > 0.002 * example.label.sum() if example.label.any() else inside.mean() < 0.002
        if example.label.sum() == 1 and inside.sum() > 150:
            rows, columns = np.nonzero(inside)
            reach = np.quantile(np.hypot(rows - rows.mean(), columns - columns.mean()), 0.99) + 0.5
            found = np.abs(inside.sum() / (np.pi * reach**2) - shares).argmin()
            assert found == example.label.argmax()
            judged[found] += 1
    assert judged.min() >= 5


@pytest.mark.parametrize("generate", [generate_shapes, generate_discs])
def test_pictures_depend_on_seed_and_split_alone(generate: Callable[..., GeneratedPictures]) -> None:
    one, again, other, train = generate("test"), generate("test"), generate("test", seed=1), generate("train")
    np.testing.assert_array_equal(one.pixels, again.pixels)
    np.testing.assert_array_equal(one.targets, again.targets)
    assert (one.targets != other.targets).any()
    assert (one.targets != train.targets[: len(one)]).any()
    with pytest.raises(UserError, match="no split 'val'"):
        generate("val")
