"""Examples for training that are made of several photos: their chance, shapes, replacement, and what is refused."""

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pydantic
import pytest

from jaxft.config import Config, Detection, from_json, to_json
from jaxft.data.loader import train_batches
from jaxft.errors import UserError
from jaxft.tasks.detection.bounds import largest_after, needed_pad_shapes
from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.dataset import ObjectDataset, training_dataset
from jaxft.tasks.detection.mixing import run_mixing
from jaxft.tasks.detection.mixtures import CopyPaste, MixUp, Mosaic
from jaxft.tasks.detection.objects import Annotated, ObjectSource
from jaxft.tasks.detection.report import mixed_counts
from jaxft.tasks.detection.transforms import (
    FilterAnnotations,
    Pad,
    RandomAffine,
    RandomChoice,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
)
from tests.scenes import write_coco
from tests.tasks.detection.reference import scene

COUNTS = (0, 1, 2, 3, 4, 1, 0, 6, 2, 2, 1)  # objects of each photo; photos 2, 5, 8 are portraits
YOLOX = (
    Mosaic(img_scale=(32, 32)),
    RandomAffine(scaling_ratio_range=(0.5, 1.5), border=(-16, -16)),
    MixUp(img_scale=(32, 32), ratio_range=(0.8, 1.6)),
    RandomFlip(prob=0.5),
)
SMALL = (Resize(scale=(48, 40), keep_ratio=True), Pad(size=(48, 48)))
PASTED = (CopyPaste(mask_occluded_thr=5),)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ObjectSource:
    root = tmp_path_factory.mktemp("mixed")
    write_coco(root, COUNTS, "train")
    return read_coco(root / "annotations" / "instances_train.json", root / "photos", masks=True)


def made(source: ObjectSource, *listed: Any, **options: Any) -> ObjectDataset:
    return training_dataset(source, Detection(transforms=listed, **({"max_objects": 9, "divisor": 8} | options)))


def row(examples: ObjectDataset, index: int, seed: int = 0) -> dict[str, Any]:
    return examples.training(index, np.random.default_rng(seed))


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"transforms": YOLOX}, (32, 32)),
        ({"transforms": YOLOX[:1]}, (64, 64)),
        ({"transforms": (Mosaic(img_scale=(20, 32)),)}, (64, 40)),
        ({"transforms": YOLOX, "photo_transforms": (RandomResize(scale=((20, 9), (50, 30))),)}, (32, 32)),
        ({"transforms": (*SMALL, MixUp(img_scale=(90, 20)))}, (48, 48)),
        ({"photo_transforms": SMALL, "transforms": PASTED}, (48, 48)),
    ],
)
def test_every_example_has_the_shape_that_is_known_before(
    source: ObjectSource, options: dict[str, Any], shape: tuple[int, int], masks: bool
) -> None:
    listed = (*options.get("photo_transforms", ()), *options["transforms"])
    assert needed_pad_shapes(listed, 8) == (shape,)
    if options["transforms"] == PASTED and not masks:
        options = options | {"transforms": (CopyPaste(paste_by_box=True),)}
    examples = training_dataset(source, Detection(masks=masks, max_objects=9, divisor=8, **options))
    assert examples.pad_shapes == (shape,)
    kinds, several = set(), 0
    for index in range(len(source)):
        found = row(examples, index, index)
        kinds.add(tuple((name, array.shape, str(array.dtype)) for name, array in found.items()))
        several += (found["valid"] | found["ignored"]).sum() > COUNTS[index]
        inside = found["boxes"][found["valid"]]
        assert (inside[:, 2:] <= [shape[1], shape[0]]).all()
        assert (inside >= 0).all()
    assert len(kinds) == 1
    assert several > 1


def test_an_example_depends_on_its_chance_alone(source: ObjectSource) -> None:
    examples = made(source, *YOLOX, masks=True)
    whole, late, parts = [], [], ([], [])
    with train_batches(examples, batch_size=4, seed=3) as batches:
        whole = [next(batches) for _ in range(4)]
    with train_batches(examples, batch_size=4, seed=3, start_step=2, workers=1) as batches:
        late = [next(batches) for _ in range(2)]
    for part, positions in zip(parts, ((0, 1), (2, 3)), strict=True):
        with train_batches(examples, batch_size=4, seed=3, positions=positions) as batches:
            part += [next(batches) for _ in range(4)]
    for step, batch in enumerate(whole):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([part[step][name] for part in parts]))
            if step >= 2:
                np.testing.assert_array_equal(array, late[step - 2][name])
    assert len({image.tobytes() for batch in whole for image in batch["image"]}) == 16


DECODED: list[str] = []


class Counted(Annotated):
    """A photo that says when it is decoded."""

    def pixels(self) -> np.ndarray:
        DECODED.append(self.name)
        return super().pixels()


def decoded(examples: ObjectDataset, index: int, seed: int) -> list[str]:
    """The photos that are decoded for an example."""
    DECODED.clear()
    row(examples, index, seed)
    return list(DECODED)


def test_a_photo_is_decoded_once_for_an_example(source: ObjectSource) -> None:
    """Also where a data set has few, and those without an object not at all for `MixUp`."""
    counted = replace(source, examples=tuple(Counted(*example) for example in source.examples))
    alone = made(counted.only([3]), *YOLOX)
    few = made(counted.only([0, 3, 6]), MixUp(img_scale=(32, 32)), RandomFlip(prob=0.5))
    whole = made(counted, *YOLOX)
    for seed in range(10):
        assert decoded(alone, 0, seed) == decoded(few, 1, seed) == ["train3.png"]
        names = decoded(whole, 4, seed)
        assert len(names) == len(set(names)) <= 5
    empty = made(counted.only([0, 6]), MixUp(img_scale=(32, 32), max_iters=2))
    assert not row(empty, 0)["valid"].any()


def test_a_mosaic_of_a_single_photo_is_of_itself(source: ObjectSource) -> None:
    alone = made(source.only([3]), Mosaic(img_scale=(64, 48), center_ratio_range=(1, 1)))
    image = row(alone, 0)["image"]
    photo = source[3].pixels()
    np.testing.assert_array_equal(image, np.tile(photo, (2, 2, 1)))


def test_each_photo_goes_through_its_own_steps_first(source: ObjectSource) -> None:
    """Photos of one color each, of which a crop leaves another size."""
    cut = RandomCrop(crop_size=(24, 16), allow_negative_crop=True)
    examples = made(source, Mosaic(img_scale=(24, 16), center_ratio_range=(1, 1)), photo_transforms=(cut,))
    pieces = set()
    for seed in range(5):
        image = row(examples, 1, seed)["image"]
        assert image.shape == (32, 48, 3)
        for top in (0, 16):
            for left in (0, 24):
                piece = image[top : top + 16, left : left + 24]
                pieces.add(piece.tobytes())
                assert any(contains(example.pixels(), piece) for example in source.examples)
    assert len(pieces) == 20


def contains(photo: np.ndarray, piece: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(photo, piece.shape)[:, :, 0]
    return bool((windows == piece).all((2, 3, 4)).any())


def test_a_photo_that_a_step_refuses_is_replaced_wherever_it_stands(source: ObjectSource) -> None:
    wide = FilterAnnotations(min_gt_bbox_wh=(12, 1))  # refuses photos all of whose objects are narrow
    examples = made(source, Mosaic(img_scale=(64, 64), center_ratio_range=(1, 1)), photo_transforms=(wide,))
    for index in range(len(source)):
        found = row(examples, index, index)
        boxes = found["boxes"][found["valid"] | found["ignored"]]
        assert ((boxes[:, 2] - boxes[:, 0]) > 11).all()
    nothing = made(source.only([1, 4]), Mosaic(), photo_transforms=(FilterAnnotations(min_gt_bbox_wh=(500, 1)),))
    with (
        pytest.raises(UserError, match=r"5 photos in a row were left without objects"),
        mock.patch("jaxft.tasks.detection.dataset.TRIES", 5),
    ):
        row(nothing, 0)


def test_a_mosaic_may_be_left_out(source: ObjectSource) -> None:
    examples = made(source, Mosaic(img_scale=(64, 48), prob=0.5, pad_val=7))
    assert examples.pad_shapes == ((96, 128),)
    sizes = [tuple(row(examples, 1, seed)["size"].tolist()) for seed in range(40)]
    assert set(sizes) == {(96, 128), (48, 64)}
    assert 10 < sizes.count((48, 64)) < 30


# What makes no sense


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"transforms": (CopyPaste(),)}, "has a CopyPaste, but masks is not set; set it, or paste_by_box"),
        ({"transforms": (CopyPaste(paste_by_box=True),), "masks": True}, "paste_by_box, but masks is set"),
        ({"transforms": ({"type": "Mosaic", "img_scale": (0, 9)},)}, "img_scale"),
        ({"transforms": ({"type": "Mosaic", "center_ratio_range": (1.5, 0.5)},)}, "must not be larger than the sec"),
        ({"transforms": ({"type": "Mosaic", "center_ratio_range": (0.5, 2.5)},)}, "less than or equal to 2"),
        ({"transforms": ({"type": "MixUp", "img_scale": (-1, 9)},)}, "greater than or equal to 1"),
        ({"transforms": ({"type": "MixUp", "ratio_range": (0, 1)},)}, "greater than 0"),
        ({"transforms": ({"type": "MixUp", "max_iters": 0},)}, "max_iters"),
        ({"transforms": ({"type": "CopyPaste", "max_num_pasted": 0},)}, "max_num_pasted"),
        ({"transforms": ({"type": "RandomAffine", "scaling_ratio_range": (2, 1)},)}, "must not be larger than the sec"),
        ({"transforms": ({"type": "RandomAffine", "max_shear_degree": 90},)}, "less than 90"),
        ({"photo_transforms": (Resize(scale=9),)}, "photo_transforms are given, but no transforms"),
        ({"photo_transforms": (Mosaic(),), "transforms": (Resize(scale=9),)}, "'Mosaic' found"),
        ({"transforms": ({"type": "RandomChoice", "transforms": ((Mosaic(),),)},)}, "'Mosaic' found"),
        ({"photo_transforms": (FilterAnnotations(by_mask=True),), "transforms": (Mosaic(),)}, "by_mask, but masks is"),
    ],
)  # fmt: skip
def test_fields_that_make_no_sense_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=named):
        Detection(**options)


@pytest.mark.parametrize(
    ("first", "listed", "named"),
    [
        (
            (),
            PASTED,
            r"instances_train.json: CopyPaste needs two photos of one size, but they may have 48 x 48 to 64 x",
        ),
        (SMALL, (Resize(scale=(9, 9)), *PASTED), r"may have 9 x 9 to 48 x 48 \(height x width\); let photo_transforms"),
        (
            (),
            (RandomAffine(border=(-9, -30)),),
            r"border of RandomAffine is \(-9, -30\), .* 60 pixels .* 48 pixels high",
        ),
        (
            (RandomChoice(transforms=((RandomAffine(border=(-30, 0)),), ())),),
            YOLOX,
            r"takes 60 pixels from photos that may be 48 pixels wide",
        ),
        (
            (),
            (Mosaic(img_scale=(32, 32), prob=0.5), RandomAffine(border=(-25, 0))),
            r"takes 50 pixels from photos that may be 48 pixels wide",
        ),
        ((), (RandomCrop(crop_size=(9, 9)), Mosaic(img_scale=(9, 9))), r"has an object, but RandomCrop wants one"),
    ],
)
def test_steps_that_cannot_take_the_photos_are_refused_at_the_start(
    source: ObjectSource, first: tuple[Any, ...], listed: tuple[Any, ...], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        made(source.only([0, 6]) if "RandomCrop" in named else source, *listed, photo_transforms=first, masks=True)


def test_a_crop_may_rely_on_the_objects_of_the_other_photos(source: ObjectSource) -> None:
    """No landscape photo of these has an object, but the portrait has."""
    listed = MixUp(img_scale=(60, 60), ratio_range=(1, 1)), RandomCrop(crop_size=(60, 60))
    some = made(source.only([0, 6, 8]), *listed, pad_shapes=((48, 64), (64, 48)))
    assert some.buckets.tolist() == [0, 0, 1]
    for seed in range(5):
        found = row(some, 0, seed)
        assert found["image"].shape == (48, 64, 3)
        assert found["valid"].any()


def test_a_configuration_with_mixed_photos_is_saved_and_read(tmp_path: Any) -> None:
    fields = Detection(photo_transforms=SMALL, transforms=(*YOLOX, *PASTED), masks=True)
    config = Config(task=fields)
    assert from_json(to_json(config), tmp_path) == config


# How many objects come together


def test_the_report_knows_how_many_objects_come_together(source: ObjectSource) -> None:
    text = made(source, *YOLOX, max_objects=4).report(4)
    mean = 4 * np.mean(COUNTS) + np.mean([count for count in COUNTS if count])
    assert (
        f"Mosaic, MixUp: up to 30 boxes come together, {mean:.1f} on average, before steps drop any; the limit" in text
    )
    assert "objects a photo drops" not in text


@pytest.mark.parametrize(
    "mixtures",
    [
        (Mosaic(),),
        (Mosaic(prob=0.3), MixUp(max_iters=2)),
        (MixUp(), CopyPaste(selected=False)),
        (CopyPaste(max_num_pasted=3), Mosaic()),
    ],
)
def test_counts_are_those_of_drawn_examples(mixtures: tuple[Any, ...]) -> None:
    """Photos as large as what they are put into, so that no object is lost, against the formula."""
    counts = np.array([0, 1, 1, 5, 2, 0])
    chances = mixed_counts(counts, mixtures)
    assert chances.sum() == pytest.approx(1)
    assert chances[-1] > 0
    rng, drawn = np.random.default_rng(0), []
    for _ in range(4000):
        number = counts[rng.integers(6)]
        for step in mixtures:
            if isinstance(step, Mosaic):
                number += counts[rng.integers(6, size=3)].sum() if rng.random() < step.prob else 0
            elif isinstance(step, MixUp):
                tried = counts[rng.integers(6, size=step.max_iters)]
                number += next((count for count in tried if count), 0)
            else:
                count = counts[rng.integers(6)]
                number += rng.integers(min(count + 1, step.max_num_pasted)) if step.selected else count
        drawn.append(number)
    assert max(drawn) <= len(chances) - 1
    np.testing.assert_allclose(np.bincount(drawn, minlength=len(chances)) / 4000, chances, atol=0.03)


# Sizes


def test_no_mixed_photo_outgrows_the_bound(source: ObjectSource) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        scale = tuple(rng.integers(1, 60, 2).tolist())
        listed = (
            Resize(scale=tuple(rng.integers(1, 90, 2).tolist()), keep_ratio=True),
            Mosaic(img_scale=scale, prob=float(rng.choice([0.5, 1])), center_ratio_range=(0, 2)),
            RandomAffine(border=(int(rng.integers(9)), int(rng.integers(9)))),
            MixUp(img_scale=tuple(rng.integers(1, 90, 2).tolist()), ratio_range=(0.1, 3)),
        )
        sides = rng.integers(1, 80, 2).tolist()
        most = largest_after(listed, *sides)
        for _ in range(3):
            found = run_mixing(listed, scene(*sides), rng, lambda tries: scene(*rng.integers(1, 50, 2).tolist()))
            assert found is not None
            assert found.size[0] <= most[0]
            assert found.size[1] <= most[1]
            assert found.masks is not None
            assert found.masks.shape == (len(found.boxes), *found.size)
