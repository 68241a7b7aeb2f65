"""CSV files of photos and targets: what is read, and what is said of mistakes."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxft.config import Data
from jaxft.data.csv_targets import TargetSource, read_labels, read_numbers
from jaxft.data.source import split_at_random
from jaxft.errors import UserError
from jaxft.tasks.splits import Reader, open_csv
from tests.data.images import photo

NUMBERS = "file,height,weight\na.jpg,1.5,-2e3\nnested/b.jpg, 2 ,0\n"
FLAGS = "file,cat,dog\na.jpg,1,0\nnested/b.jpg,1,1.0\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """`a.jpg` and `nested/b.jpg` in the folder `train`."""
    (tmp_path / "train" / "nested").mkdir(parents=True)
    for seed, name in enumerate(("a.jpg", "nested/b.jpg")):
        photo(20, 16, seed).save(tmp_path / "train" / name)
    return tmp_path / "train"


def read(reader: Reader, photos: Path, text: str | bytes, *options: object) -> TargetSource:
    file = photos.parent / "train.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return reader(file, photos, *options)  # type: ignore[arg-type]


def message(reader: Reader, photos: Path, text: str | bytes, *options: object) -> str:
    with pytest.raises(UserError) as caught:
        read(reader, photos, text, *options)
    return str(caught.value).replace(f"{photos.parent}/", "")


def test_numbers(photos: Path) -> None:
    source = read(read_numbers, photos, NUMBERS)
    assert source.classes == ("height", "weight")
    assert [source[index].name for index in range(len(source))] == ["a.jpg", "nested/b.jpg"]
    assert source[1].image == photos / "nested/b.jpg"
    np.testing.assert_array_equal(source.targets, np.array([[1.5, -2000], [2, 0]], np.float32))
    assert source[0].label.dtype == np.float32
    source.check()
    assert pickle.loads(pickle.dumps(source)).classes == source.classes  # worker processes get a copy


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),  # as Excel writes UTF-8
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: ("\n" + text + "\n\n").encode(),
        lambda text: text.replace("a.jpg", '"./a.jpg"').encode(),
    ],
    ids=["byte-order mark", "CRLF", "blank lines", "quotes"],
)
def test_forms_of_the_same_file(photos: Path, change: Callable[[str], bytes]) -> None:
    plain, other = read(read_numbers, photos, NUMBERS), read(read_numbers, photos, change(NUMBERS))
    assert (other.classes, other.files) == (plain.classes, plain.files)
    np.testing.assert_array_equal(other.targets, plain.targets)


def test_labels_as_columns(photos: Path) -> None:
    source = read(read_labels, photos, FLAGS)
    assert source.classes == ("cat", "dog")
    assert source.targets.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("first", "second", "classes"),
    [
        ("dog cat", "", ("cat", "dog")),
        ("dog;cat", "", ("cat", "dog")),
        ("dog|cat", "", ("cat", "dog")),
        ("fire truck; cat", "cat", ("cat", "fire truck")),  # blanks belong to names where something else separates
    ],
)
def test_labels_in_one_column(photos: Path, first: str, second: str, classes: tuple[str, ...]) -> None:
    source = read(read_labels, photos, f"file,labels\na.jpg,{first}\nnested/b.jpg,{second}\n")
    assert source.classes == classes
    assert source.targets.tolist() == [[1, 1], [float(name in second) for name in classes]]


def test_classes_choose_columns_and_their_order(photos: Path) -> None:
    text = "file,photographer,x,y\na.jpg,Ann,1,2\nnested/b.jpg,Bob,3,4\n"
    source = read(read_numbers, photos, text, ("y", "x"))
    assert source.classes == ("y", "x")
    assert source.targets.tolist() == [[2, 1], [4, 3]]
    assert "columns photographer, x, y, but y, x are expected" in message(read_numbers, photos, text, ("y", "x"), True)
    assert "columns photographer, x, y, but z are expected" in message(read_numbers, photos, text, ("z",))


@pytest.mark.parametrize("complete", [False, True])
def test_classes_are_all_the_labels_there_are(photos: Path, complete: bool) -> None:
    text = "file,labels\na.jpg,cat dog\nnested/b.jpg,cow\n"
    source = read(read_labels, photos, text, ("dog", "cow", "cat", "emu"), complete)
    assert source.classes == ("dog", "cow", "cat", "emu")
    assert source.targets.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]
    assert message(read_labels, photos, text, ("dog", "cat"), complete) == (
        "train.csv: line 3, column 'labels': 'cow' is none of the classes dog, cat."
    )


def test_a_cell_that_is_a_class_is_taken_whole(photos: Path) -> None:
    text = "file,labels\na.jpg,fire truck\nnested/b.jpg,cat dog\n"
    source = read(read_labels, photos, text, ("fire truck", "cat", "dog"))
    assert source.targets.tolist() == [[1, 0, 0], [0, 1, 1]]


def test_where_a_split_lies(photos: Path) -> None:
    (photos.parent / "train.csv").write_text(NUMBERS)
    data = Data(source="csv", root=str(photos.parent))
    assert open_csv(data, "train", read_numbers, ()).photos == photos
    (photos.parent / "tables").mkdir()
    (photos.parent / "tables" / "of_one.csv").write_text("file,x\nb.jpg,1\n")
    other = Data(
        source="csv", root=str(photos.parent), annotation_file="tables/of_{split}.csv", image_folder="train/nested"
    )
    assert open_csv(other, "one", read_numbers, ()).files == ("b.jpg",)
    with pytest.raises(UserError, match=r"no CSV file .*test\.csv; check --data.root and --data.annotation-file"):
        open_csv(data, "test", read_numbers, ())


def test_the_columns_of_two_splits_must_agree(photos: Path) -> None:
    data = Data(source="csv", root=str(photos.parent))
    (photos.parent / "train.csv").write_text("file,y,x\na.jpg,1,2\n")
    assert open_csv(data, "train", read_numbers, ("x", "y")).targets.tolist() == [[2, 1]]
    with pytest.raises(UserError, match="columns y, x, but x are expected"):
        open_csv(data, "train", read_numbers, ("x",))
    chosen = Data(source="csv", root=str(photos.parent), classes=("x",))
    assert open_csv(chosen, "train", read_numbers, ()).targets.tolist() == [[2]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "train.csv is empty; expected a header"),
        (b"\n\n", "train.csv is empty; expected a header"),
        (b"file,x\n", "train.csv lists no photos"),
        (b"name,x\na.jpg,1\n", "train.csv, line 1: its first column is called 'name', but 'file' is expected"),
        (b"a.jpg,1\n", "first column is called 'a.jpg', but 'file' is expected"),
        (b"file;x\na.jpg;1\n", "first column is called 'file;x', but 'file' is expected"),
        (b"file\na.jpg\n", "train.csv, line 1: it has no column but 'file'"),
        (b"file,x,\na.jpg,1,2\n", "train.csv, line 1: column 3 has no name"),
        (b"\nfile,x,x\na.jpg,1,2\n", "train.csv, line 2: it has two columns 'x'"),
        (b"file,x,y\na.jpg,1\n", "train.csv: line 2 has 2 cell(s), but there are 3 columns."),
        (b"file,x\na.jpg,1,2\n", "train.csv: line 2 has 3 cell(s), but there are 2 columns."),
        (b"file,x\n,1\n", "train.csv: line 2, column 'file': is empty"),
        (b"file,x\na.jpg,1\n./a.jpg,2\n", "train.csv: line 3, column 'file': a.jpg is listed in line 2 already."),
        (b"file,x\nc.jpg,1\n", "train.csv: line 2, column 'file': the photo train/c.jpg does not exist."),
        (b"file,x\nnested,1\n", "the photo train/nested does not exist."),
        (b"file,x,y\na.jpg,1,\n", "train.csv: line 2, column 'y': is empty; every photo needs every target."),
        (b"file,x,y\na.jpg,tall,1\n", "train.csv: line 2, column 'x': 'tall' is no number."),
        (b'file,x\na.jpg,"1,5"\n', "train.csv: line 2, column 'x': '1,5' is no number."),
        (b"file,x\na.jpg,1_000\n", "train.csv: line 2, column 'x': '1_000' is no number."),
        (b"file,x\na.jpg,nan\n", "train.csv: line 2, column 'x': 'nan' is not a finite number of 32 bits."),
        (b"file,x\na.jpg,-inf\n", "train.csv: line 2, column 'x': '-inf' is not a finite number of 32 bits."),
        (b"file,x\na.jpg,1e39\n", "train.csv: line 2, column 'x': '1e39' is not a finite number of 32 bits."),
        (b"file,x\na.jpg,\xff\n", "train.csv is not text in UTF-8"),
        (b'file,x\na.jpg,"1\n', "train.csv cannot be read as CSV: unexpected end of data."),
    ],
)
def test_mistakes_of_numbers(photos: Path, text: bytes, expected: str) -> None:
    assert expected in message(read_numbers, photos, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,cat\na.jpg,2\n", "train.csv: line 2, column 'cat': '2' is neither 0 nor 1."),
        ("file,cat\na.jpg,0.5\n", "train.csv: line 2, column 'cat': '0.5' is neither 0 nor 1."),
        ("file,cat\na.jpg,yes\n", "train.csv: line 2, column 'cat': 'yes' is no number."),
        ("file,cat\na.jpg,\n", "train.csv: line 2, column 'cat': is empty"),
        ("file,labels\na.jpg,\n", "train.csv has no label in its column 'labels'"),
        ("file,labels,dog\na.jpg,cat,1\n", "beside the column 'labels', which lists an image's labels, it has others"),
        ("file,labels\na.jpg,cat\na.jpg,dog\n", "line 3, column 'file': a.jpg is listed in line 2 already"),
    ],
)
def test_mistakes_of_labels(photos: Path, text: str, expected: str) -> None:
    assert expected in message(read_labels, photos, text)


def test_all_mistakes_are_named_up_to_twenty(photos: Path) -> None:
    lines = [f"{number}.jpg,{number}\n" for number in range(30)]
    text = message(read_numbers, photos, "".join(["file,x\n", "a.jpg,-\n", *lines]))
    assert text.startswith("train.csv has 31 mistakes:\n  line 3, column 'file'")
    assert text.count("does not exist") == 20
    assert text.endswith("... and 11 more")


def test_a_folder_in_the_place_of_the_file(photos: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_numbers(photos, photos)


def test_every_photo_is_opened(photos: Path) -> None:
    source = read(read_numbers, photos, NUMBERS)
    (photos / "nested" / "b.jpg").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"1 of the 2 images in .*train cannot be used:\n  .*b\.jpg is not an image"):
        source.check()


def test_a_part_is_held_out_at_random(photos: Path) -> None:
    source = TargetSource(photos, ("x",), [f"{number}.jpg" for number in range(10)], np.zeros((10, 1), np.float32))
    train, held_out = split_at_random(source, 0.3, seed=1)
    assert sorted([*train.indices, *held_out.indices]) == list(range(10))
    assert len(held_out) == 3
    assert split_at_random(source, 0.3, seed=1)[1].indices == held_out.indices
    assert split_at_random(source, 0.3, seed=2)[1].indices != held_out.indices
    for fraction in (0.001, 0.999):
        assert min(map(len, split_at_random(source, fraction, seed=0))) == 1
    with pytest.raises(UserError, match="at least 2"):
        split_at_random(TargetSource(photos, ("x",), ["0.jpg"], np.zeros((1, 1), np.float32)), 0.5, seed=0)
    with pytest.raises(UserError, match="between 0 and 1"):
        split_at_random(source, 1.0, seed=0)
