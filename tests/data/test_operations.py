"""Operations of the policies, each at every magnitude that can be drawn, against torchvision on pictures of Pillow."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxft.data import operations
from jaxft.data.operations import Operation, Warp, apply
from jaxft.data.policies import AUTO_BINS, BINS, WIDE_SPACE, Range, Space, narrow_space
from tests.data.images import photo
from tests.data.torch_draws import noisy

torch = pytest.importorskip("torch")
autoaugment = pytest.importorskip("torchvision.transforms.autoaugment")
functional = pytest.importorskip("torchvision.transforms.functional")

NAMES = {
    "identity": "Identity",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
}
PICTURES = [noisy(33, 24), photo(40, 31), Image.new("RGB", (9, 7), (30, 200, 90)), noisy(1, 5)]


def their_name(operation: Operation) -> str:
    """What torchvision calls an operation."""
    return NAMES[operation.__name__]


def theirs(picture: Image.Image, operation: Operation, magnitude: float, warp: Warp) -> np.ndarray:
    mode = functional.InterpolationMode(warp.interpolation)
    return np.asarray(autoaugment._apply_op(picture, their_name(operation), magnitude, mode, list(warp.fill)))


def magnitudes(span: Range | None, bins: int) -> list[float]:
    """All that can be drawn from a range."""
    if span is None:
        return [0.0]
    found = [span.at(index, bins) for index in range(bins)]
    return found + [-magnitude for magnitude in found] * span.signed


@pytest.mark.parametrize(
    "warp", [Warp(), Warp(interpolation="nearest", fill=(9, 130, 255))], ids=["bilinear", "nearest"]
)
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_torchvisions_at_every_magnitude(name: str, warp: Warp) -> None:
    operation: Operation = getattr(operations, name)
    for picture in PICTURES:
        narrow: Space = {**narrow_space(*picture.size), operations.identity: None, operations.invert: None}
        drawn = set(magnitudes(narrow[operation], BINS) + magnitudes(narrow[operation], AUTO_BINS))
        drawn |= set(magnitudes(WIDE_SPACE.get(operation), BINS))
        for magnitude in drawn:
            ours = apply(np.asarray(picture), [(operation, magnitude)], warp)
            # The ranges hold posterize's bits evenly spaced, and the operation rounds them.
            expected = theirs(picture, operation, round(magnitude) if name == "posterize" else magnitude, warp)
            np.testing.assert_array_equal(ours, expected, err_msg=f"{picture.size} {magnitude}")


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_bicubic_warps_are_torchvisions(name: str) -> None:
    operation, warp = getattr(operations, name), Warp(interpolation="bicubic", fill=(1, 2, 3))
    for magnitude in (-0.71, 0.3, 7.9, -90.0):
        ours = apply(np.asarray(PICTURES[0]), [(operation, magnitude)], warp)
        np.testing.assert_array_equal(ours, theirs(PICTURES[0], operation, magnitude, warp))


def test_operations_are_done_in_their_order() -> None:
    picture = PICTURES[0]
    pair = [(operations.solarize, 100.0), (operations.color, -0.5)]
    one, other = apply(np.asarray(picture), pair, Warp()), apply(np.asarray(picture), pair[::-1], Warp())
    assert not np.array_equal(one, other)
    first = Image.fromarray(theirs(picture, *pair[0], Warp()))
    np.testing.assert_array_equal(one, theirs(first, *pair[1], Warp()))


# Ranges


def assert_same_space(ours: Space, their_space: dict[str, tuple[Any, bool]], bins: int) -> None:
    assert [their_name(operation) for operation in ours] == list(their_space)
    for (operation, span), (expected, signed) in zip(ours.items(), their_space.values(), strict=True):
        if span is None:
            assert expected.ndim == 0
            continue
        found = [span.at(index, bins) for index in range(bins)]
        if operation is operations.posterize:
            found = [round(bits) for bits in found]
        assert (found, span.signed) == ([value.item() for value in expected], signed), operation


@pytest.mark.parametrize("size", [(224, 224), (331, 200), (32, 48), (1, 517)])
def test_randaugment_and_autoaugment_have_torchvisions_magnitudes(size: tuple[int, int]) -> None:
    width, height = size
    narrow = narrow_space(width, height)
    rand = autoaugment.RandAugment()._augmentation_space(BINS, (height, width))
    assert_same_space({operations.identity: None, **narrow}, rand, BINS)
    auto = autoaugment.AutoAugment()._augmentation_space(AUTO_BINS, (height, width))
    assert_same_space({**narrow, operations.invert: None}, auto, AUTO_BINS)


def test_trivialaugment_has_torchvisions_magnitudes() -> None:
    assert_same_space(WIDE_SPACE, autoaugment.TrivialAugmentWide()._augmentation_space(BINS), BINS)


def test_translations_stop_at_the_same_pixel_for_every_width() -> None:
    """A translation drops the fraction: where a magnitude lies at a whole number, its last digit counts."""
    for width in range(1, 700):
        span = narrow_space(width, 1)[operations.translate_x]
        assert span is not None
        expected = torch.linspace(0.0, 150.0 / 331.0 * width, BINS)
        assert [int(span.at(index, BINS)) for index in range(BINS)] == [int(value.item()) for value in expected]
