import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxft.data.transforms import Augment, CenterCrop, normalize, random_crop
from tests.data.images import photo

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(331, 271), (271, 331), (256, 256), (64, 300), (10, 30), (1, 1), (1, 7), (225, 224), (224, 224), (500, 257)]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (64, 96), (65, 32), (31, 31)])
def test_center_crop_is_torchvisions_bit_for_bit(tmp_path: Path, size: tuple[int, int], resize: int, crop: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    photo(*size).save(tmp_path / "a.jpg")
    theirs = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])
    expected = np.asarray(theirs(Image.open(tmp_path / "a.jpg").convert("RGB")))
    ours = CenterCrop(size=crop, resize=resize)(tmp_path / "a.jpg")
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, expected)


def test_bicubic_center_crop_is_torchvisions(tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    photo(300, 200).save(tmp_path / "a.jpg")
    bicubic = transforms.InterpolationMode.BICUBIC
    theirs = transforms.Compose([transforms.Resize(64, bicubic), transforms.CenterCrop(56)])
    ours = CenterCrop(size=56, resize=64, interpolation="bicubic")(tmp_path / "a.jpg")
    np.testing.assert_array_equal(ours, np.asarray(theirs(Image.open(tmp_path / "a.jpg"))))


def test_normalize_is_torchvisions() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = np.arange(256 * 3, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8)
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])(pixels)
    ours = normalize(pixels, MEAN, STD)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected.permute(1, 2, 0).numpy(), rtol=0, atol=1e-6)


def test_normalize_by_hand() -> None:
    images = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(normalize(images, (0, 0.2, 0.5), (1, 2, 0.25)), [[[[0, 0, 2]]]], atol=1e-6)


def test_normalize_takes_jax_arrays() -> None:
    jax = pytest.importorskip("jax")
    images = _rng().integers(0, 256, (2, 4, 4, 3), np.uint8)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        ours = jax.jit(lambda x: normalize(x, MEAN, STD))(jax.numpy.asarray(images))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, normalize(images, MEAN, STD), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "atol"), [((0.02, 0.2), 1), ((0.9, 1.0), 0)], ids=["enlarged, by OpenCV", "made smaller, by Pillow"]
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_crop_is_resized_as_in_torchvision(
    tmp_path: Path, suffix: str, scale: tuple[float, float], atol: int
) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    path = tmp_path / f"a.{suffix}"
    photo(180, 160).save(path)
    for seed in range(10):
        left, top, width, height = random_crop(180, 160, scale, (3 / 4, 4 / 3), _rng(seed))
        picture = Image.open(path).convert("RGB")
        expected = np.asarray(functional.resized_crop(picture, top, left, height, width, [96, 96])).astype(int)
        ours = Augment(size=96, scale=scale, flip=0)(path, _rng(seed))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=atol)


def test_a_large_jpeg_is_cropped_at_the_right_place(tmp_path: Path) -> None:
    photo(1601, 1203).save(tmp_path / "a.jpg", quality=95)
    photo(1601, 1203).save(tmp_path / "a.png", compress_level=1)
    augment = Augment(size=96, scale=(0.1, 0.5))
    shrunk, whole = ([augment(tmp_path / f"a.{s}", _rng(i)).astype(int) for i in range(5)] for s in ("jpg", "png"))
    assert np.abs(np.subtract(shrunk, whole)).mean() < 3
    assert np.abs(np.subtract(shrunk, whole[::-1])).mean() > 20  # other crops look different


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
def test_augment_gives_its_shape_for_any_image(tmp_path: Path, size: tuple[int, int], interpolation: str) -> None:
    photo(*size).save(tmp_path / "a.jpg")
    for seed in range(3):
        ours = Augment(size=32, interpolation=interpolation)(tmp_path / "a.jpg", _rng(seed))  # type: ignore[arg-type]
        assert (ours.shape, ours.dtype) == ((32, 32, 3), np.uint8)


def test_augment_depends_on_the_generator_alone() -> None:
    pixels = np.asarray(photo(50, 40))
    augment = Augment(size=16)
    np.testing.assert_array_equal(augment(pixels, _rng(1)), augment(pixels, _rng(1)))
    assert not np.array_equal(augment(pixels, _rng(1)), augment(pixels, _rng(2)))


def test_flip() -> None:
    pixels = np.asarray(photo(16, 16))
    whole = {"size": 16, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    np.testing.assert_array_equal(Augment(**whole, flip=0)(pixels, _rng()), pixels)  # type: ignore[arg-type]
    np.testing.assert_array_equal(Augment(**whole, flip=1)(pixels, _rng()), pixels[:, ::-1])  # type: ignore[arg-type]
    flipped = sum(np.array_equal(Augment(**whole)(pixels, _rng(i)), pixels[:, ::-1]) for i in range(400))  # type: ignore[arg-type]
    assert 160 < flipped < 240


def test_random_crops_are_distributed_as_in_torchvision() -> None:
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    rng, picture, scale, ratio = _rng(), photo(300, 200), (0.08, 1.0), (3 / 4, 4 / 3)
    ours = np.array([random_crop(300, 200, scale, ratio, rng) for _ in range(4000)], float)
    theirs = np.array([transforms.RandomResizedCrop.get_params(picture, scale, ratio) for _ in range(4000)], float)
    theirs = theirs[:, [1, 0, 3, 2]]  # from (top, left, height, width)
    assert np.all(ours[:, 0] + ours[:, 2] <= 300)
    assert np.all(ours[:, 1] + ours[:, 3] <= 200)
    for quantity in (
        lambda c: c[:, 2] * c[:, 3],
        lambda c: np.log(c[:, 2] / c[:, 3]),
        lambda c: c[:, 0],
        lambda c: c[:, 1],
    ):
        a, b = quantity(ours), quantity(theirs)
        assert abs(a.mean() - b.mean()) < 5 * math.sqrt((a.var() + b.var()) / 4000)
        assert abs(a.std() / b.std() - 1) < 0.06


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (7, 300), (300, 7), (1, 1)])
def test_the_central_crop_when_none_fits(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    scale, ratio = (0.9, 1.0), (3 / 4, 4 / 3)
    top, left, height, width = transforms.RandomResizedCrop.get_params(photo(*size), scale, ratio)
    assert random_crop(*size, scale, ratio, _rng()) == (left, top, width, height)
