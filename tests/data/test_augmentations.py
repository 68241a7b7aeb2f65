"""Changes after the crop: torchvision's pixels for torchvision's draws, and the distributions of our own."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxft.data import augmentations
from jaxft.data.augmentations import (
    Chain,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandomErasing,
    Rotation,
    VerticalFlip,
    blur,
    grayscale,
)
from jaxft.data.operations import Warp
from jaxft.data.policies import RandAugment
from jaxft.data.transforms import Augment, normalize
from tests.data.images import photo
from tests.data.torch_draws import noisy, seeded, torch

transforms = pytest.importorskip("torchvision.transforms")
functional = pytest.importorskip("torchvision.transforms.functional")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURE = noisy(37, 29)
PIXELS = np.asarray(PICTURE)
BILINEAR = transforms.InterpolationMode.BILINEAR


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(ours: Any, theirs: Any, picture: Image.Image = PICTURE, seeds: int = 60) -> None:
    """Equal pixels for the same draws, and as many draws taken."""
    for seed in range(seeds):
        found = ours(np.asarray(picture), seeded(seed))
        after = torch.rand(1)
        torch.manual_seed(seed)
        np.testing.assert_array_equal(found, np.asarray(theirs(picture)), err_msg=str(seed))
        assert torch.rand(1) == after


def test_vertical_flip_is_torchvisions() -> None:
    same(VerticalFlip(probability=0.4), transforms.RandomVerticalFlip(0.4))


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic"])
def test_rotation_is_torchvisions(name: Any) -> None:
    theirs = transforms.RandomRotation(170, transforms.InterpolationMode(name), fill=(5, 250, 77))
    same(Rotation(degrees=170, warp=Warp(interpolation=name, fill=(5, 250, 77))), theirs)


@pytest.mark.parametrize(
    "strengths", [(0.4, 0.5, 0.6, 0.1), (1.5, 0, 0, 0), (0, 2.0, 0, 0.5), (0, 0, 0.9, 0), (0, 0, 0, 0.3)]
)
def test_color_jitter_is_torchvisions(strengths: tuple[float, float, float, float]) -> None:
    brightness, contrast, saturation, hue = strengths
    ours = ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    same(ours, transforms.ColorJitter(*strengths))


def test_adjustments_are_torchvisions_at_every_strength() -> None:
    for factor in (0.0, 0.13, 1 / 3, 0.5, 0.999, 1.0, 1.01, 1.7, 4.0):
        for name in ("brightness", "contrast", "saturation"):
            ours = getattr(augmentations, name)(PICTURE, factor)
            theirs = getattr(functional, f"adjust_{name}")(PICTURE, factor)
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    for step in range(-127, 128):
        ours, theirs = augmentations.hue(PICTURE, step / 254), functional.adjust_hue(PICTURE, step / 254)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_color_jitter_draws_every_order_and_the_whole_range() -> None:
    generator, jitter = rng(), ColorJitter(brightness=0.4, contrast=1.3, saturation=0.2, hue=0.1)
    draws = [jitter.draw(generator) for _ in range(6000)]
    orders = Counter(tuple(adjust.__name__ for adjust, _ in drawn) for drawn in draws)
    assert len(orders) == 24
    assert max(orders.values()) < 250 + 5 * math.sqrt(250)
    assert min(orders.values()) > 250 - 5 * math.sqrt(250)
    bounds = {"brightness": (0.6, 1.4), "contrast": (0.0, 2.3), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
    for name, (low, high) in bounds.items():
        values = [value for drawn in draws for adjust, value in drawn if adjust.__name__ == name]
        assert_uniform(values, low, high)


def assert_uniform(values: list[float], low: float, high: float) -> None:
    """Numbers fill a range evenly: the largest gap between their distribution and the line is small."""
    ordered = np.sort((np.asarray(values) - low) / (high - low))
    assert ordered[0] >= 0
    assert ordered[-1] <= 1
    line = np.arange(1, len(ordered) + 1) / len(ordered)
    assert np.abs(ordered - line).max() < 2 / math.sqrt(len(ordered))


def test_rotations_fill_their_range() -> None:
    generator = rng()
    assert_uniform([Rotation(degrees=25).draw(generator)[0][1] for _ in range(4000)], -25, 25)


def test_grayscale_is_torchvisions() -> None:
    same(Grayscale(probability=0.3), transforms.RandomGrayscale(0.3))
    np.testing.assert_array_equal(grayscale(PIXELS), np.asarray(functional.to_grayscale(PICTURE, 3)))


# Blur


@pytest.mark.parametrize("kernel", [1, 3, 13, 23])
@pytest.mark.parametrize("picture", [PICTURE, photo(64, 48), noisy(12, 12)], ids=["noisy", "smooth", "small"])
def test_blur_is_torchvisions_but_for_single_roundings(picture: Image.Image, kernel: int) -> None:
    off = total = 0
    for sigma in (0.1, 0.33, 1.0, 2.0, 5.0):
        expected = np.asarray(functional.gaussian_blur(picture, [kernel, kernel], [sigma, sigma])).astype(int)
        found = blur(np.asarray(picture), kernel, sigma)
        assert (found.dtype, found.shape) == (np.uint8, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1)
        off, total = off + np.count_nonzero(found != expected), total + found.size
    assert off <= 1e-3 * total


def test_random_blur_is_torchvisions_for_its_draws() -> None:
    ours, theirs = GaussianBlur(probability=0.6, kernel=5, sigma=(0.5, 1.5)), transforms.GaussianBlur(5, (0.5, 1.5))
    blurred = 0
    for seed in range(40):
        found = ours(PIXELS, seeded(seed)).astype(int)
        torch.manual_seed(seed)
        expected = theirs(PICTURE) if torch.rand(1) < 0.6 else PICTURE
        np.testing.assert_allclose(found, np.asarray(expected), rtol=0, atol=1)
        blurred += expected is not PICTURE
    assert 10 < blurred < 40


# Erasing


def eraser(**fields: Any) -> RandomErasing:
    return RandomErasing(**({"mean": MEAN, "std": STD} | fields))


@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_erasing_is_torchvisions_after_the_normalization(fill: Any) -> None:
    value = 0 if fill == "mean" else "random"
    ours, theirs = eraser(probability=0.7, fill=fill), transforms.RandomErasing(0.7, value=value)
    ready = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])(PICTURE)
    black, white = (np.asarray(normalize(np.full(3, level, np.uint8), MEAN, STD)) for level in (0, 255))
    level = 0.5 / 255 / min(STD)
    erased = 0
    for seed in range(60):
        found = normalize(ours(PIXELS, seeded(seed)), MEAN, STD)
        after = torch.rand(1)
        torch.manual_seed(seed)
        expected = theirs(ready).permute(1, 2, 0).numpy()
        assert torch.rand(1) == after
        np.testing.assert_allclose(found, expected.clip(black, white), rtol=0, atol=level + 1e-5)
        erased += not np.array_equal(ours(PIXELS, seeded(seed)), PIXELS)
    assert 30 < erased < 60


def test_erasing_leaves_the_rest_and_its_input_alone() -> None:
    pixels = PIXELS.copy()
    ours = eraser(probability=1.0)
    where = ours.draw(29, 37, rng(1))
    assert where is not None
    found = ours(pixels, rng(1))
    np.testing.assert_array_equal(pixels, PIXELS)
    inside = np.zeros(pixels.shape[:2], bool)
    inside[where.top : where.top + where.height, where.left : where.left + where.width] = True
    np.testing.assert_array_equal(found[~inside], pixels[~inside])
    assert np.all(found[inside] == [124, 116, 104])


def test_rectangles_are_distributed_as_in_torchvision() -> None:
    generator, count, tensor = rng(), 3000, torch.zeros(3, 60, 90)
    drawn = [eraser(probability=1.0).draw(60, 90, generator) for _ in range(count)]
    ours = np.array([where[:4] for where in drawn if where is not None], float)
    torch.manual_seed(0)
    theirs = [transforms.RandomErasing.get_params(tensor, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(count)]
    others = np.array(theirs, float)
    assert len(ours) == count
    for quantity in (
        lambda r: r[:, 2] * r[:, 3],
        lambda r: np.log(r[:, 2] / r[:, 3]),
        lambda r: r[:, 0],
        lambda r: r[:, 1],
    ):
        a, b = quantity(ours), quantity(others)
        assert abs(a.mean() - b.mean()) < 5 * math.sqrt((a.var() + b.var()) / count)
        assert abs(a.std() / b.std() - 1) < 0.07


def test_nothing_is_erased_where_no_rectangle_fits_or_chance_says_no() -> None:
    assert eraser(probability=1.0, scale=(0.9, 1.0), ratio=(3.0, 3.3)).draw(60, 90, rng()) is None
    np.testing.assert_array_equal(eraser(probability=1.0)(PIXELS[:1, :1], rng()), PIXELS[:1, :1])
    chances = [eraser(probability=0.3).draw(60, 90, rng(seed)) is not None for seed in range(1000)]
    assert 230 < sum(chances) < 370


# All together


def test_a_chain_is_torchvisions_training_script() -> None:
    """Crop, flip, policy and jitter, each taking its draws after the one before. The crop is the whole square: those of
    torchvision are drawn in another order, which `test_transforms.py` has."""
    warp = Warp(fill=(3, 2, 1))
    steps = (
        VerticalFlip(probability=0.5),
        RandAugment(warp=warp),
        Rotation(degrees=20, warp=warp),
        ColorJitter(brightness=0.3, hue=0.2),
        Grayscale(probability=0.2),
    )
    whole: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    theirs = transforms.Compose(
        [
            transforms.RandomResizedCrop(32, **whole),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomVerticalFlip(0.5),
            transforms.RandAugment(interpolation=BILINEAR, fill=[3, 2, 1]),
            transforms.RandomRotation(20, BILINEAR, fill=(3, 2, 1)),
            transforms.ColorJitter(brightness=0.3, hue=0.2),
            transforms.RandomGrayscale(0.2),
        ]
    )
    same(Chain(crop=Augment(size=32, **whole), steps=steps), theirs, noisy(48, 48))


@pytest.mark.parametrize(
    "step",
    [
        VerticalFlip(),
        Rotation(degrees=40),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
        Grayscale(probability=0.5),
        GaussianBlur(kernel=5),
        eraser(fill="noise"),
    ],
    ids=lambda step: type(step).__name__,
)
def test_a_step_depends_on_the_generator_alone_and_leaves_its_input(step: augmentations.Step) -> None:
    pixels = PIXELS.copy()
    pixels.flags.writeable = False
    found = [step(pixels, rng(seed)) for seed in range(12)]
    assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in found)
    for seed, one in enumerate(found):
        np.testing.assert_array_equal(one, step(pixels, rng(seed)))
    assert len({one.tobytes() for one in found}) > 1
