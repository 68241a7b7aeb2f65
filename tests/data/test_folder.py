from pathlib import Path

import pytest

from jaxft.data.folder import ImageFolder
from jaxft.errors import UserError
from tests.data.images import photo, photo_folder


def test_order_and_labels_are_those_of_torchvision(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    root = photo_folder(tmp_path, {"b": 3, "a": 2, "B": 1})
    (root / "a" / "nested").mkdir()
    photo(4, 4).save(root / "a" / "nested" / "x.PNG")
    photo(4, 4).save(root / "a" / "z.webp")
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / "b" / "notes.txt").write_text("x")
    (root / "readme.jpg").write_text("beside the classes")
    ours, theirs = ImageFolder(root), datasets.ImageFolder(root)
    assert list(ours.classes) == theirs.classes
    assert [
        (str(example.image), example.label) for example in map(ours.__getitem__, range(len(ours)))
    ] == theirs.samples
    assert ours[0].name == "B/000.jpg"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        ImageFolder(tmp_path / "nowhere")


def test_no_sub_folders(tmp_path: Path) -> None:
    photo(4, 4).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="no sub-folders"):
        ImageFolder(tmp_path)


def test_one_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only one class, cat"):
        ImageFolder(photo_folder(tmp_path, {"cat": 2}))


def test_empty_classes_are_all_named(tmp_path: Path) -> None:
    root = photo_folder(tmp_path, {"cat": 2, "dog": 0, "emu": 0})
    (root / "dog" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="dog, emu"):
        ImageFolder(root)


def test_the_folder_above_the_splits(tmp_path: Path) -> None:
    photo_folder(tmp_path / "train", {"cat": 1, "dog": 1})
    photo_folder(tmp_path / "test", {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match=r"splits \(test, train\)"):
        ImageFolder(tmp_path)


def test_splits_must_agree_on_the_classes(tmp_path: Path) -> None:
    root = photo_folder(tmp_path, {"cat": 1, "dog": 1})
    assert ImageFolder(root, classes=("cat", "dog")).classes == ("cat", "dog")
    with pytest.raises(UserError, match="ant, cat, dog were expected"):
        ImageFolder(root, classes=("ant", "cat", "dog"))


def test_check_accepts_good_files(tmp_path: Path) -> None:
    ImageFolder(photo_folder(tmp_path, {"cat": 3, "dog": 3})).check()


def test_check_names_every_bad_file_at_once(tmp_path: Path) -> None:
    root = photo_folder(tmp_path, {"cat": 4, "dog": 3}, width=200, height=150)
    whole = (root / "cat" / "001.jpg").read_bytes()
    (root / "cat" / "001.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "cat" / "002.jpg").write_bytes(b"")
    (root / "dog" / "000.jpg").write_text("<html>")
    with pytest.raises(UserError) as caught:
        ImageFolder(root).check()
    message = str(caught.value)
    assert message.startswith("3 of the 7 images")
    assert all(name in message for name in ("cat/001.jpg", "cat/002.jpg", "dog/000.jpg"))
    assert "003.jpg" not in message


def test_check_names_at_most_twenty(tmp_path: Path) -> None:
    root = photo_folder(tmp_path, {"cat": 25, "dog": 1}, width=4, height=4)
    for number in range(25):
        (root / "cat" / f"{number:03}.jpg").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        ImageFolder(root).check()
    assert str(caught.value).count(".jpg") == 20
    assert "and 5 more" in str(caught.value)
