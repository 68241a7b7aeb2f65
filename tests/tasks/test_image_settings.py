"""The augmentations that a configuration asks for: what they build, what is refused, and a run with them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from jaxft import train
from jaxft.cli import parse
from jaxft.config import Classification, Config, Images, from_json, to_json
from jaxft.data.augmentations import (
    Chain,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandomErasing,
    Rotation,
    Step,
    VerticalFlip,
)
from jaxft.data.dataset import ImageDataset
from jaxft.data.folder import ImageFolder
from jaxft.data.loader import Batch, train_batches
from jaxft.data.operations import Warp
from jaxft.data.policies import AutoAugment, RandAugment, TrivialAugment
from jaxft.data.transforms import Augment
from tests.data.images import photo
from tests.small import ROOT, call, lines

pytest_plugins = ("tests.runs",)

MEAN, STD = Images().mean, Images().std
ALL: dict[str, Any] = {
    "vertical_flip": 0.5,
    "policy": "randaugment",
    "magnitude": 7,
    "rotation": 10.0,
    "color_jitter": (0.4, 0.4, 0.4, 0.1),
    "grayscale": 0.2,
    "blur": 0.5,
    "blur_kernel": 5,
    "erasing": 0.5,
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_what_is_off_is_not_there() -> None:
    assert Images().augment() == Augment()
    assert Images(crop=32, scale=(0.5, 1.0), flip=0.1).augment() == Augment(size=32, scale=(0.5, 1.0), flip=0.1)


@pytest.mark.parametrize(
    ("fields", "step"),
    [
        ({"vertical_flip": 0.3}, VerticalFlip(probability=0.3)),
        ({"policy": "randaugment"}, RandAugment(num_ops=2, magnitude=9)),
        ({"policy": "randaugment", "magnitude": 5, "num_ops": 3}, RandAugment(num_ops=3, magnitude=5)),
        (
            {"policy": "trivialaugment", "warp_interpolation": "nearest", "warp_fill": (1, 2, 3)},
            TrivialAugment(warp=Warp(interpolation="nearest", fill=(1, 2, 3))),
        ),
        ({"policy": "autoaugment_imagenet"}, AutoAugment(found_on="imagenet")),
        (
            {"policy": "autoaugment_cifar10", "warp_fill": (9, 9, 9)},
            AutoAugment(found_on="cifar10", warp=Warp(fill=(9,) * 3)),
        ),
        ({"policy": "autoaugment_svhn"}, AutoAugment(found_on="svhn")),
        ({"rotation": 15, "warp_fill": (4, 5, 6)}, Rotation(degrees=15, warp=Warp(fill=(4, 5, 6)))),
        ({"color_jitter": (0.1, 0.2, 0.3, 0.4)}, ColorJitter(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.4)),
        ({"color_jitter": (0, 0, 0, 0.4)}, ColorJitter(hue=0.4)),
        ({"grayscale": 0.2}, Grayscale(probability=0.2)),
        (
            {"blur": 0.5, "blur_kernel": 23, "blur_sigma": (0.2, 3.0)},
            GaussianBlur(probability=0.5, kernel=23, sigma=(0.2, 3.0)),
        ),
        (
            {"erasing": 0.1, "erasing_scale": (0.1, 0.2), "erasing_ratio": (0.5, 2.0), "erasing_fill": "noise"},
            RandomErasing(probability=0.1, scale=(0.1, 0.2), ratio=(0.5, 2.0), fill="noise", mean=MEAN, std=STD),
        ),
    ],
)
def test_a_setting_is_one_step_after_the_same_crop(fields: dict[str, Any], step: Step) -> None:
    images = Images(crop=48, **fields)
    augment = images.augment()
    assert augment == Chain(crop=Augment(size=48), steps=(step,))
    pixels = np.asarray(photo(60, 50))
    found = [augment(pixels, rng(seed)) for seed in range(8)]
    assert all(one.shape == (48, 48, 3) and one.dtype == np.uint8 for one in found)
    expected = []
    for seed in range(8):  # the crop and the flip take the first draws, those of a run without the setting
        generator = rng(seed)
        expected.append(step(Images(crop=48).augment()(pixels, generator), generator))
    np.testing.assert_array_equal(found, expected)


def test_the_order_is_that_of_torchvisions_training_script_with_erasing_last() -> None:
    augment = Images(**ALL).augment()
    assert isinstance(augment, Chain)
    kinds = [VerticalFlip, RandAugment, Rotation, ColorJitter, Grayscale, GaussianBlur, RandomErasing]
    assert [type(step) for step in augment.steps] == kinds


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"magnitude": 5}, "magnitude is 5, but it has an effect only where policy is randaugment"),
        ({"policy": "trivialaugment", "num_ops": 1}, "num_ops is 1, but it has an effect only where policy is rand"),
        ({"warp_fill": (1, 1, 1)}, "warp_fill is .* only where there is a policy, or rotation is above 0"),
        ({"warp_interpolation": "nearest"}, "warp_interpolation is nearest, but .* only where there is a policy"),
        ({"blur_kernel": 5}, "blur_kernel is 5, but it has an effect only where blur is above 0"),
        ({"blur_sigma": (1, 1)}, "blur_sigma is .* only where blur is above 0"),
        ({"erasing_fill": "noise"}, "erasing_fill is noise, but it has an effect only where erasing is above 0"),
        ({"erasing_scale": (0.1, 0.2)}, "erasing_scale is .* only where erasing is above 0"),
        ({"erasing_ratio": (1, 2)}, "erasing_ratio is .* only where erasing is above 0"),
        ({"blur": 0.5, "blur_kernel": 4}, "blur_kernel is 4; it is an odd number of at most 447"),
        ({"blur": 0.5, "crop": 6}, "blur_kernel is 13; it is an odd number of at most 11"),
        ({"erasing": 0.5, "erasing_scale": (0.5, 1.5)}, "no share of the crop is larger than 1"),
        ({"color_jitter": (0, 0, 0, 0.6)}, "less than or equal to 0.5"),
        ({"color_jitter": (-0.1, 0, 0, 0)}, "greater than or equal to 0"),
        ({"rotation": 181}, "less than or equal to 180"),
        ({"vertical_flip": 1.1}, "less than or equal to 1"),
        ({"policy": "randaugment", "magnitude": 31}, "less than or equal to 30"),
        ({"policy": "randaug"}, "'randaugment'"),
        ({"rotation": 1, "warp_fill": (0, 0, 256)}, "less than or equal to 255"),
    ],
)
def test_what_makes_no_sense_or_has_no_effect_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Images(**fields)


def test_every_number_of_a_part_is_refused_where_the_part_is_off() -> None:
    """No field is forgotten: each that is neither the crop's nor the normalization's turns something on, or is refused
    alone."""
    plain = ("crop", "resize", "scale", "ratio", "flip", "mean", "std")
    other: dict[str, Any] = ALL | {
        "magnitude": 1,
        "num_ops": 1,
        "warp_interpolation": "nearest",
        "warp_fill": (1, 1, 1),
    }
    other |= {"blur_sigma": (1, 1), "erasing_scale": (0.1, 0.1), "erasing_ratio": (1, 1), "erasing_fill": "noise"}
    for field in dataclasses.fields(Images):
        if field.name in plain:
            continue
        try:
            images = Images(**{field.name: other[field.name]})
        except pydantic.ValidationError:
            continue
        assert isinstance(images.augment(), Chain), field.name


# Configurations and runs


def test_a_saved_configuration_without_these_fields_means_that_they_are_off() -> None:
    config = Config(task=Classification(images=Images(crop=40)))
    saved = json.loads(to_json(config))
    for name in ("policy", "magnitude", "color_jitter", "erasing", "warp_fill", "blur"):
        del saved["task"]["images"][name]
    assert from_json(json.dumps(saved), Path("config.json")) == config
    all_on = Config(task=Classification(images=Images(**ALL)))
    assert from_json(to_json(all_on), Path("config.json")) == all_on


def test_the_command_line_sets_them(config_file: Path) -> None:
    given = "--task.images.policy randaugment --task.images.magnitude 5 --task.images.color-jitter 0.4 0.4 0.4 0.1"
    options, _ = parse(["--config", str(config_file), *given.split()])
    assert isinstance(options.settings.task, Classification)
    images = options.settings.task.images
    assert (images.policy, images.magnitude, images.color_jitter) == ("randaugment", 5, (0.4, 0.4, 0.4, 0.1))
    result = call(train.main, "--config", config_file, "--task.images.magnitude", 5)
    assert result.code == 2
    assert "magnitude is 5, but it has an effect only where policy is randaugment" in " ".join(result.err.split())


def take(folder: Path, count: int, **options: Any) -> list[Batch]:
    images = Images(crop=24, resize=24, **ALL)
    dataset = ImageDataset(ImageFolder(folder), images.augment(), images.center_crop())
    with train_batches(dataset, batch_size=8, **({"seed": 1} | options)) as batches:
        return [next(batches) for _ in range(count)]


def test_an_example_depends_on_seed_epoch_and_itself(photos: Path) -> None:
    """Three steps an epoch."""
    whole = take(photos / "train", 6)
    for resumed, expected in zip(take(photos / "train", 2, start_step=4), whole[4:], strict=True):
        np.testing.assert_array_equal(resumed["image"], expected["image"])
    first = {image.tobytes() for batch in whole[:3] for image in batch["image"]}
    second = {image.tobytes() for batch in whole[3:] for image in batch["image"]}
    other = {image.tobytes() for batch in take(photos / "train", 3, seed=2) for image in batch["image"]}
    assert len(first) == len(second) == len(other) == 24
    assert not first & (second | other)


def test_a_run_with_all_of_them(config_file: Path, tmp_path: Path) -> None:
    flags = ["--phases.0.epochs", "1"]
    for name, value in ALL.items():
        values = value if isinstance(value, tuple) else (value,)
        flags += [f"--task.images.{name.replace('_', '-')}", *map(str, values)]
    result = call(train.main, "--config", config_file, "--workdir", tmp_path / "run", *flags)
    assert result.code == 0, result
    assert np.isfinite([line["train/loss"] for line in lines(tmp_path / "run") if "train/loss" in line]).all()


def test_the_guide_names_every_field() -> None:
    text = (ROOT / "docs" / "fine-tuning.md").read_text()
    section = text.partition("\n## Augmentation\n")[2].partition("\n## ")[0]
    for field in dataclasses.fields(Images):
        assert field.name in ("crop", "resize", "mean", "std") or f"`{field.name}`" in section, field.name
