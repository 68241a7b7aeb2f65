"""What worker processes share of a dataset."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from jaxft.data.arrays import ArrayDataset
from jaxft.data.csv_targets import TargetSource
from jaxft.data.dataset import Dataset, ImageDataset
from jaxft.data.folder import ImageFolder
from jaxft.data.shared import Packed, Shared
from jaxft.data.source import Subset
from jaxft.data.transforms import Augment, CenterCrop
from jaxft.errors import UserError
from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.dataset import evaluation_dataset
from jaxft.tasks.detection.objects import Annotated, ObjectSource, gather

TRANSFORMS = Augment(size=8), CenterCrop(size=8, resize=8)


def folder(count: int, tmp_path: Path) -> Dataset:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(count // 2):
            (tmp_path / name / f"{number:05}.jpg").touch()
    return ImageDataset(Subset(ImageFolder(tmp_path), list(range(count))[::-1]), *TRANSFORMS)


def targets(count: int, tmp_path: Path) -> Dataset:
    names = [f"{number:05}.jpg" for number in range(count)]
    return ImageDataset(TargetSource(tmp_path, ("x",), names, np.zeros((count, 1), np.float32)), *TRANSFORMS)


def arrays(count: int, _: Path) -> Dataset:
    dataset = ArrayDataset([{"image": np.full((2, 2, 3), 7, np.uint8), "label": n % 2} for n in range(count)], "ab")
    dataset.check()
    return dataset


def objects(count: int, _: Path) -> Dataset:
    outlines = [[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]] * 2
    found = [gather([((0, 0, 5, 5), number % 3, False, 25.0)] * 2, outlines) for number in range(count)]
    entries = ({"bbox": [0.0, 0.0, 5.0, 5.0], "segmentation": outlines[0]},)
    examples = tuple(
        Annotated(Path("photos") / f"{number:05}.jpg", 32, 24, one, number, f"{number:05}.jpg", entries)
        for number, one in enumerate(found)
    )
    return evaluation_dataset(ObjectSource("file", ("a", "b", "c"), examples), Detection(scales=((64, 48),)))


@pytest.mark.parametrize("made", [folder, targets, arrays, objects])
def test_what_a_worker_is_sent_does_not_grow_with_the_dataset(
    made: Callable[[int, Path], Dataset], tmp_path: Path
) -> None:
    sizes = []
    for count in (300, 3000):
        (tmp_path / str(count)).mkdir()
        dataset = made(count, tmp_path / str(count))
        shared = Shared(dataset)
        sent = pickle.dumps(shared)
        sizes.append(len(sent))
        there = pickle.loads(sent)
        assert list(there.names()) == list(dataset.names())
        shared.close()
    assert sizes[1] < sizes[0] + 100
    assert sizes[1] < 5000


def test_arrays_are_the_file_and_changes_are_private() -> None:
    shared = Shared({"some": np.arange(6).reshape(2, 3), "none": np.zeros((0, 4), np.float32)})
    sent = pickle.dumps(shared)
    one, other = pickle.loads(sent), pickle.loads(sent)
    one["some"][0, 0] = 9
    np.testing.assert_array_equal(other["some"], shared.value["some"])
    assert (one["none"].shape, one["none"].dtype) == ((0, 4), np.float32)
    shared.close()
    shared.close()
    assert not shared.file.exists()


def test_the_file_goes_with_the_object() -> None:
    shared = Shared(np.arange(3))
    file = shared.file
    assert file.exists()
    del shared
    assert not file.exists()


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with (
        mock.patch("tempfile.tempdir", str(tmp_path)),
        mock.patch("jaxft.data.shared.os.fdopen", side_effect=OSError(28, "No space left on device")),
        pytest.raises(UserError, match=r"No space left on device.*TMPDIR"),
    ):
        Shared(np.arange(3))
    assert not os.listdir(tmp_path)


def test_a_packed_sequence_is_a_sequence() -> None:
    items = ["a", "", ("b", 1), {"c": [2.5]}]
    packed = Packed(items)
    assert list(packed) == list(pickle.loads(pickle.dumps(packed))) == items
    assert (len(packed), packed[-1], list(packed[1:3]), list(Packed([]))) == (4, items[-1], items[1:3], [])
    with pytest.raises(IndexError):
        packed[4]
