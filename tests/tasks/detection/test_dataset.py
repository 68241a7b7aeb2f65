"""Photos with objects as padded arrays, the order of batches, and the report."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from jaxft.config import Detection
from jaxft.data.epoch_order import epoch_order, steps_per_epoch
from jaxft.data.loader import Batch, eval_batches, train_batches
from jaxft.errors import UserError
from jaxft.tasks.detection.bounds import needed_pad_shapes
from jaxft.tasks.detection.coco import read_coco
from jaxft.tasks.detection.dataset import ObjectDataset, evaluation_dataset, training_dataset
from jaxft.tasks.detection.found import on_photo
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.detection.scene import outer_boxes
from jaxft.tasks.detection.steps import training_steps
from jaxft.tasks.detection.transforms import (
    FilterAnnotations,
    Pad,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
)
from tests.scenes import write_coco

COUNTS = (0, 1, 2, 3, 4, 1, 0, 6, 2, 2, 1)  # objects of each photo; photos 2, 5, 8 are portraits
SMALL = Detection(scales=((64, 48),), test_scale=(64, 48), max_objects=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ObjectSource:
    root = tmp_path_factory.mktemp("padded")
    write_coco(root, COUNTS, "train")
    return read_coco(root / "annotations" / "instances_train.json", root / "photos", masks=True)


def padded(source: ObjectSource, flip: float = 0.0, **options: Any) -> ObjectDataset:
    return training_dataset(source, Detection(**({"scales": ((64, 48),), "max_objects": 4, "flip": flip} | options)))


def row(examples: ObjectDataset, index: int, seed: int = 0) -> dict[str, Any]:
    return examples.training(index, np.random.default_rng(seed))


# Rows


def test_a_photo_lies_in_the_corner_and_its_objects_in_the_first_padded(source: ObjectSource) -> None:
    found = row(padded(source, divisor=32, masks=True), 3)
    assert found["image"].shape == (64, 64, 3)
    assert found["size"].tolist() == [48, 64]
    np.testing.assert_array_equal(found["image"][:48], source[3].pixels())
    assert not found["image"][48:].any()
    objects = source[3].objects
    np.testing.assert_array_equal(found["boxes"][:3], objects.boxes)
    assert not found["boxes"][3:].any()
    assert found["valid"].tolist() == [True, True, False, False]
    assert found["ignored"].tolist() == [False, False, True, False]
    assert found["label"].tolist() == [*objects.labels[:2], 0, 0]
    masks = np.unpackbits(found["masks"], axis=-1)
    assert masks.shape == (4, 64, 64)
    for mask, (x0, y0, x1, y1) in zip(masks, objects.boxes.astype(int), strict=False):
        assert mask.sum() == mask[y0:y1, x0:x1].sum() == (y1 - y0) * (x1 - x0)
    assert [str(found[name].dtype) for name in ("image", "size", "boxes", "label", "valid", "masks")] == [
        "uint8", "int32", "float32", "int32", "bool", "uint8",
    ]  # fmt: skip


def test_every_box_count_gives_the_same_shapes(source: ObjectSource) -> None:
    examples = padded(source, pad_shapes=((64, 64),), masks=True)
    shapes = {tuple((name, array.shape) for name, array in row(examples, index).items()) for index in range(11)}
    assert len(shapes) == 1
    assert not row(examples, 0)["valid"].any()


def test_the_limit_drops_crowds_first(source: ObjectSource) -> None:
    found = row(padded(source, max_objects=5), 7)
    assert found["valid"].all()
    assert not found["ignored"].any()
    np.testing.assert_array_equal(found["boxes"], source[7].objects.boxes[:5])


def test_boxes_follow_the_photo(source: ObjectSource) -> None:
    plain, flipped = row(padded(source), 1), row(padded(source, flip=1.0), 1)
    np.testing.assert_array_equal(flipped["image"][:48, :64], plain["image"][:48, :64][:, ::-1])
    np.testing.assert_array_equal(flipped["boxes"][0, [0, 2]], 64 - plain["boxes"][0, [2, 0]])
    large = row(padded(source, scales=((128, 96),)), 1)
    np.testing.assert_allclose(large["boxes"], 2 * plain["boxes"])
    assert large["size"].tolist() == [96, 128]


def test_crops_and_colors_change_the_photo(source: ObjectSource) -> None:
    cropped = padded(source, crop=(32, 24), divisor=8)
    assert cropped.pad_shapes == ((24, 32),)
    found = row(cropped, 7)
    assert found["image"].shape == (24, 32, 3)
    inside = found["boxes"][found["valid"]]
    assert (inside >= 0).all()
    assert (inside[:, 2:] <= [32, 24]).all()
    assert (row(padded(source, distort=True), 1)["image"] != row(padded(source), 1)["image"]).any()


def test_a_row_depends_on_its_chance_alone(source: ObjectSource) -> None:
    examples = padded(
        source, 0.5, scales=((64, 48), (32, 24)), distort=True, crop=(0.5, 0.5), crop_kind="relative_range"
    )
    for index in range(3):
        first, second = row(examples, index), row(examples, index)
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
    images = [row(examples, 1, seed)["image"] for seed in range(4)]
    assert any((images[0] != other).any() for other in images[1:])


# Pad shapes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scales": ((1333, 800),)}, ((800, 1344), (1344, 800))),
        ({"scales": ((1333, 640), (1000, 800)), "divisor": 64}, ((832, 1344), (1344, 832))),
        ({"scales": ((640, 640),)}, ((640, 640),)),
        ({"scales": ((1333, 800),), "crop": (512, 384)}, ((384, 512),)),
        ({"scales": ((1333, 800),), "crop": (384, 600), "crop_kind": "absolute_range"}, ((608, 608),)),
    ],
)
def test_pad_shapes_have_room_for_the_largest_scale(options: dict[str, Any], expected: tuple) -> None:
    settings = Detection(**options)
    assert needed_pad_shapes(training_steps(settings), settings.divisor) == expected


def test_photos_go_to_the_smallest_pad_shape_that_holds_them(source: ObjectSource) -> None:
    examples = padded(source, pad_shapes=((128, 128), (64, 64), (48, 64)))
    assert [examples.pad_shapes[bucket] for bucket in examples.buckets[:3]] == [(48, 64), (48, 64), (64, 64)]
    with pytest.raises(UserError, match=r"train2\.png is up to 64 x 48 pixels .* pad shapes 48 x 64"):
        padded(source, pad_shapes=((48, 64),))
    with pytest.raises(UserError, match="fits into none"):
        evaluation_dataset(source, Detection(test_scale=(64, 48), pad_shapes=((32, 32),)))


# Batches


def taken(examples: ObjectDataset, count: int, **options: Any) -> list[Batch]:
    with train_batches(examples, **({"batch_size": 2, "seed": 3} | options)) as batches:
        return [next(batches) for _ in range(count)]


def test_a_batch_has_one_pad_shape_and_an_epoch_every_photo(source: ObjectSource) -> None:
    examples = padded(source, divisor=16)
    assert [int((examples.buckets == bucket).sum()) for bucket in (0, 1)] == [8, 3]
    assert steps_per_epoch(examples.buckets, 2) == 4 + 1
    orders = [epoch_order(examples.buckets, 2, 3, epoch).reshape(-1, 2) for epoch in range(20)]
    for order in orders:
        assert all(len(set(examples.buckets[batch])) == 1 for batch in order)
        assert len(set(order.ravel().tolist())) == 10
    assert set(np.concatenate(orders).ravel().tolist()) == set(range(11))
    assert len({tuple(order.ravel()) for order in orders}) == 20
    for batch, wanted in zip(taken(examples, 5), orders[0], strict=True):
        assert batch["image"].shape[1:3] == examples.pad_shapes[examples.buckets[wanted[0]]]


def test_order_depends_neither_on_hosts_nor_on_where_a_run_resumes(source: ObjectSource) -> None:
    examples = padded(source, 0.5, divisor=16)
    whole = taken(examples, 7)
    late = taken(examples, 3, start_step=4)
    halves = [taken(examples, 7, positions=[position]) for position in (0, 1)]
    for name in whole[0]:
        for batch, other in zip(whole[4:], late, strict=True):
            np.testing.assert_array_equal(batch[name], other[name])
        for batch, first, second in zip(whole, *halves, strict=True):
            np.testing.assert_array_equal(batch[name], np.concatenate([first[name], second[name]]))


@pytest.mark.parametrize("hosts", [1, 2])
def test_every_photo_is_evaluated_once(source: ObjectSource, hosts: int) -> None:
    examples = evaluation_dataset(source, SMALL)
    shares = np.split(np.arange(4), hosts)
    parts = [list(eval_batches(examples, batch_size=4, positions=share)) for share in shares]
    assert {len(part) for part in parts} == {3}
    found = np.concatenate([batch["index"] for part in parts for batch in part])
    assert sorted(found[found >= 0].tolist()) == list(range(11))
    for batches in zip(*parts, strict=True):
        assert len({batch["image"].shape[1:] for batch in batches}) == 1
        for batch in batches:
            assert set(batch) == {"image", "size", "index", "mask"}
            np.testing.assert_array_equal(batch["mask"], batch["index"] >= 0)


def test_a_photo_that_vanishes_is_named(tmp_path: Path) -> None:
    write_coco(tmp_path, [1, 1], "train")
    gone = read_coco(tmp_path / "annotations" / "instances_train.json", tmp_path / "photos")
    (tmp_path / "photos" / "train1.png").unlink()
    with pytest.raises(UserError, match=r"'train1\.png' cannot be used: .* does not exist"):
        row(padded(gone), 1)


def test_a_photo_that_an_epoch_repeats_is_augmented_anew_each_time(source: ObjectSource) -> None:
    jitter = (RandomResize(scale=(64, 64), ratio_range=(0.3, 1.0), keep_ratio=True),)
    examples = training_dataset(source, Detection(transforms=jitter, max_objects=4, pad_shapes=((64, 64),)))
    alike = replace(examples, buckets=np.array([0, 0, 1, *[0] * 8], np.int32), pad_shapes=((64, 64),) * 2)
    batches = taken(alike, 3, batch_size=4)
    (small,) = (index for index, batch in enumerate(batches) if (batch["size"][:, 0] >= batch["size"][:, 1]).all())
    assert len({image.tobytes() for image in batches[small]["image"]}) == 4
    parts = [taken(alike, 3, batch_size=4, positions=share)[small]["image"] for share in ((0, 1), (2, 3))]
    np.testing.assert_array_equal(batches[small]["image"], np.concatenate(parts))
    with train_batches(alike, batch_size=4, seed=3, workers=1) as worker:
        np.testing.assert_array_equal([next(worker) for _ in range(3)][small]["image"], batches[small]["image"])
    # The first time it looks as it does where it is not repeated.
    alone = alike.training(2, np.random.default_rng([3, 0, 2]))["image"]
    np.testing.assert_array_equal(batches[small]["image"][0], alone)


def test_the_order_of_the_files_resumes(source: ObjectSource) -> None:
    examples = padded(source, 0.5, pad_shapes=((64, 64),))
    whole, late = taken(examples, 12, shuffle=False), taken(examples, 5, shuffle=False, start_step=7)
    assert len(whole) == 12
    for batch, other in zip(whole[7:], late, strict=True):
        np.testing.assert_array_equal(batch["image"], other["image"])
    for place, image in enumerate(np.concatenate([batch["image"] for batch in whole[:5]])):
        expected = examples.training(place, np.random.default_rng([3, 0, place]))
        np.testing.assert_array_equal(image, expected["image"])


# Listed steps


def test_large_scale_jitter_has_one_pad_shape(source: ObjectSource) -> None:
    jitter = (
        RandomResize(scale=(64, 64), ratio_range=(0.1, 2.0), keep_ratio=True),
        RandomCrop(crop_size=(64, 64), crop_type="absolute_range", recompute_bbox=True, allow_negative_crop=True),
        RandomFlip(prob=0.5),
        Pad(size=(64, 64), pad_val=114),
    )
    examples = training_dataset(source, Detection(transforms=jitter, masks=True, max_objects=4))
    assert examples.pad_shapes == ((64, 64),)
    smallest = 64
    for index in range(len(source)):
        found = row(examples, index, seed=index)
        assert found["image"].shape == (64, 64, 3)
        assert found["size"].tolist() == [64, 64]  # what a step has added is a part of the photo
        added = (found["image"] == 114).all(-1)
        smallest = min(smallest, int((~added.all(axis=1)).sum()))
        masks = np.unpackbits(found["masks"], axis=-1)[found["valid"]].astype(bool)
        assert not (masks & added).any()
        np.testing.assert_array_equal(found["boxes"][found["valid"]], outer_boxes(masks.astype(np.uint8)))
    assert smallest < 40


def test_a_crop_without_objects_gives_way_to_another_photo_of_its_pad_shape(source: ObjectSource) -> None:
    crop = RandomCrop(crop_size=(16, 16))
    listed = (Resize(scale=(64, 48), keep_ratio=True), crop)
    shapes = ((48, 64), (64, 48))  # so that photos are told apart by their format
    examples = replace(
        training_dataset(source, Detection(transforms=listed, max_objects=9)),
        pad_shapes=shapes,
        buckets=np.array([int(example.height > example.width) for example in source.examples], np.int32),
    )
    for index in range(len(source)):
        drawn = [row(examples, index, seed) for seed in range(20)]
        assert all((found["valid"] | found["ignored"]).any() for found in drawn)
        assert {found["image"].shape[:2] for found in drawn} == {shapes[examples.buckets[index]]}
        again = row(examples, index, 3)
        np.testing.assert_array_equal(again["image"], drawn[3]["image"])
    allowed = Detection(transforms=(*listed[:1], replace(crop, allow_negative_crop=True)), max_objects=9)
    assert not row(training_dataset(source, allowed), 0)["valid"].any()


def test_where_no_photo_can_take_the_place_it_is_said(source: ObjectSource) -> None:
    empty, crop = source.only([0, 6]), RandomCrop(crop_size=(16, 16))
    with pytest.raises(UserError, match=r"no photo that is padded to 32 x 32 has an object, but RandomCrop wants"):
        training_dataset(empty, Detection(transforms=(crop,)))
    listed = (FilterAnnotations(min_gt_bbox_wh=(500, 500)),)
    examples = training_dataset(source.only([1]), Detection(transforms=listed))
    with (
        pytest.raises(UserError, match=r"5 photos in a row were left without objects"),
        mock.patch("jaxft.tasks.detection.dataset.TRIES", 5),
    ):
        row(examples, 0)


@pytest.mark.parametrize(
    ("listed", "size", "seen"),
    [
        ((Resize(scale=(80, 50)),), (50, 80), None),
        ((Resize(scale_factor=0.5),), (24, 32), None),
        ((Resize(scale=(80, 50), keep_ratio=True), Pad(size_divisor=64, pad_val=9)), (50, 67), (64, 128)),
        ((Pad(pad_to_square=True),), (48, 64), (64, 64)),
    ],
)
def test_evaluation_knows_the_way_back(source: ObjectSource, listed: Any, size: Any, seen: Any) -> None:
    examples = evaluation_dataset(source, Detection(test_transforms=listed))
    found = examples.evaluation(1)
    assert found["size"].tolist() == list(size)
    assert ("seen" in found) == ("seen" in examples.padding(0)) == (seen is not None)
    if seen:
        assert found["seen"].tolist() == list(seen)
        assert (found["image"][size[0] : seen[0], : seen[1]] == (9 if seen == (64, 128) else 0)).all()
        assert not found["image"][seen[0] :].any()
    # A box of the stored photo, as it would be found, goes back to itself.
    example = source[1]
    there = example.objects.boxes * np.array([size[1] / example.width, size[0] / example.height] * 2)
    prediction = {"boxes": there, "scores": np.ones(1), "labels": np.zeros(1, int), "valid": np.ones(1, bool)}
    np.testing.assert_allclose(on_photo(prediction | found, example).boxes, example.objects.boxes, rtol=1e-6)
    batches = list(eval_batches(examples, batch_size=4))
    assert {tuple(sorted(batch)) for batch in batches} == {tuple(sorted({"mask", "index", *found}))}


# The report


def test_the_report_counts(source: ObjectSource) -> None:
    text = padded(source, max_objects=3).report(4)
    lines = [line.strip() for line in text.splitlines()]
    ignored = sum(count > 2 for count in COUNTS)
    assert lines[0].endswith(f"11 photos, 22 boxes, of which {ignored} are to be ignored (crowds, difficult objects)")
    labels = np.concatenate([e.objects.labels[~e.objects.ignored] for e in source.examples])
    assert lines[1] == f"boxes of each class: disc {(labels == 0).sum()}, square {(labels == 1).sum()}"
    assert any(line.startswith("0 boxes:      2 photos ##") for line in lines)
    assert any(line.startswith("2 to 4 boxes:      5 photos ##") for line in lines)
    assert any(line.startswith("5 to 9 boxes:      1 photos #") for line in lines)
    assert "the limit of 3 objects a photo drops 18.18% of the boxes: 4, in 2 photos (--task.max-objects)" in text
    assert "0 boxes reached beyond their photo" in text
    assert "padded to 64 x 64: 11 photos" in text or "padded to 48 x 64: 8 photos" in text
    assert "3 photos (fewer than a batch: in training they are repeated, each time augmented anew)" in padded(
        source, divisor=16
    ).report(4)
