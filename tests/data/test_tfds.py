import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests

from jaxft.data.dataset import ImageDataset
from jaxft.data.loader import train_batches
from jaxft.data.tfds import Tfds
from jaxft.data.transforms import Augment, CenterCrop
from jaxft.errors import UserError
from tests.data.images import photo

tfds = pytest.importorskip("tensorflow_datasets")


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Eight photos of two classes, made on the spot."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = {"picture": tfds.features.Image(), "kind": tfds.features.ClassLabel(names=["round", "square"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(8):
            kind = "square" if number < 3 else "round"
            picture = BytesIO()
            photo(12, 10, seed=number).save(picture, "PNG")
            picture.seek(0)
            yield number, {"picture": picture, "kind": kind}


class Unreachable(TinyShapes):
    """A data set whose download fails."""

    def _split_generators(self, _: object) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        raise requests.ConnectionError("Name or service not known")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the data set is prepared."""
    folder = tmp_path_factory.mktemp("tfds")
    TinyShapes(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_examples_are_encoded_images_with_named_classes(data_dir: Path) -> None:
    source = Tfds("tiny_shapes", "train", data_dir)
    examples = [source[i] for i in range(len(source))]
    assert source.classes == ("round", "square")
    assert sorted(example.label for example in examples) == [0] * 5 + [1] * 3
    assert all(isinstance(example.image, bytes) for example in examples)
    assert examples[2].name == "tiny_shapes/train[2]"


def test_a_part_of_a_split(data_dir: Path) -> None:
    assert len(Tfds("tiny_shapes", "train[:50%]", data_dir)) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_batches(data_dir: Path, workers: int) -> None:
    source = Tfds("tiny_shapes", "train", data_dir)
    with train_batches(
        ImageDataset(source, Augment(size=8), CenterCrop(size=8)), batch_size=4, seed=0, workers=workers
    ) as batches:
        assert next(batches)["image"].shape == (4, 8, 8, 3)


def test_an_unknown_data_set(data_dir: Path) -> None:
    with pytest.raises(UserError, match="'no_such_set'"):
        Tfds("no_such_set", "train", data_dir)


def test_an_unknown_split(data_dir: Path) -> None:
    with pytest.raises(UserError, match=r"'tiny_shapes', split 'val', cannot be opened"):
        Tfds("tiny_shapes", "val", data_dir)


def test_offline(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'unreachable'.* cannot be opened: Name or .* offline, prepare"):
        Tfds("unreachable", "train", tmp_path)


def test_without_tfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install jaxft\[tfds\]"):
        Tfds("mnist", "train")
