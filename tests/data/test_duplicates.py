"""Copies of photos are found, whatever was done to them; other photos are none."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxft.data.duplicates import Member, find_duplicates

COUNT, PLANTED = 200, 10


def scene(seed: int, height: int = 90, width: int = 120) -> Image.Image:
    """Soft patches of color, as different from seed to seed as photos are."""
    rough = np.random.default_rng(seed).integers(0, 256, (7, 8, 3), np.uint8)
    return Image.fromarray(cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC))


def copied(photo: Image.Image, number: int) -> tuple[Image.Image, dict[str, object], str, str]:
    """One of ten copies of a photo: pixels, how to save them, the suffix, and what `Member.how` says of it."""
    smaller = photo.resize((round(photo.width * 0.7), round(photo.height * 0.7)), Image.Resampling.BICUBIC)
    return (
        (photo, {"quality": 40}, "jpg", ""),
        (photo, {}, "png", ""),
        (smaller, {"quality": 75}, "jpg", ""),
        (ImageOps.mirror(photo), {"quality": 40}, "jpg", "mirrored"),
        (ImageOps.mirror(smaller), {"quality": 40}, "jpg", "mirrored"),
        (ImageOps.mirror(photo), {}, "png", "mirrored"),
        (ImageOps.flip(photo), {"quality": 60}, "jpg", "upside down, mirrored"),
        (photo.rotate(180), {"quality": 60}, "jpg", "upside down"),
        (photo.convert("L"), {"quality": 60}, "jpg", ""),
        (smaller, {}, "webp", ""),
    )[number]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    files = [folder / f"{seed:03}.jpg" for seed in range(COUNT)]
    for seed, file in enumerate(files):
        scene(seed).save(file, quality=90)
    return files


def test_every_planted_copy_is_found_across_splits_and_nothing_else(photos: list[Path], tmp_path: Path) -> None:
    test, expected = photos[150:], []
    for number in range(PLANTED):
        pixels, saved, suffix, how = copied(Image.open(photos[7 * number]), number)
        pixels.save(tmp_path / f"{number}.{suffix}", **saved)
        expected.append((Member("train", 7 * number), Member("test", len(test), how)))
        test = [*test, tmp_path / f"{number}.{suffix}"]
    assert find_duplicates({"train": photos[:150], "test": test}) == expected


def test_copies_of_copies_are_one_group(tmp_path: Path) -> None:
    mirrored = ImageOps.mirror(scene(1))
    images = [scene(0), scene(1), mirrored, scene(2), mirrored.resize((60, 45)), scene(1).resize((240, 180))]
    (group,) = find_duplicates({"train": [np.asarray(image) for image in images]})
    assert [(member.position, member.how) for member in group] == [(1, ""), (2, "mirrored"), (4, "mirrored"), (5, "")]


def test_a_file_listed_twice_is_one_photo_of_its_split_but_two_of_two(photos: list[Path]) -> None:
    assert find_duplicates({"train": [*photos[:5], *photos[:5]]}) == []
    assert find_duplicates({"train": photos[:5], "test": photos[4:8]}) == [(Member("train", 4), Member("test", 0))]


def test_what_cannot_be_read_and_what_has_one_color_is_no_duplicate(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jpg", "b.jpg", "black.png", "white.png", "gone.jpg")]
    for file in files[:2]:
        file.write_bytes(b"no photo")
    for file, color in zip(files[2:4], ("black", "white"), strict=True):
        Image.new("RGB", (50, 50), color).save(file)
    assert find_duplicates({"train": files, "test": files[2:3]}) == []
