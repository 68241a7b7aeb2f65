"""PASCAL VOC: the photo of an annotation, and what may stand in its XML."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from jaxft.errors import UserError
from jaxft.tasks.detection.voc import read_voc
from tests.scenes import write_voc

OBJECTS = [("square", 0, (2, 2, 10, 20))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voc(tmp_path, {"a": OBJECTS, "b": OBJECTS})


def change(root: Path, old: str, new: str, stem: str = "a") -> None:
    file = root / "Annotations" / f"{stem}.xml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def photos(root: Path) -> list[str]:
    return [example.image.name for example in read_voc(root, "train").examples if isinstance(example.image, Path)]


def test_the_photo_is_that_of_the_annotations_own_name(root: Path) -> None:
    change(root, "a.jpg", "b.jpg")
    assert photos(root) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".bmp", ".JPG"])
def test_a_photo_may_have_any_usual_suffix(root: Path, suffix: str) -> None:
    (root / "JPEGImages" / "a.jpg").rename(root / "JPEGImages" / f"a{suffix}")
    assert photos(root) == [f"a{suffix}", "b.jpg"]


def test_of_several_photos_the_named_one_or_the_jpeg_is_it(root: Path) -> None:
    folder = root / "JPEGImages"
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    assert photos(root) == ["a.jpg", "b.jpg"]
    change(root, "a.jpg", "a.png")
    assert photos(root) == ["a.png", "b.jpg"]
    change(root, "a.png", "a")
    Image.new("RGB", (40, 30)).save(folder / "a.jpeg")
    with pytest.raises(UserError, match=r"a\.xml has several photos in .*, a\.jpeg, a\.jpg, a\.png; leave one"):
        read_voc(root, "train")


def test_a_named_photo_counts_where_it_is_nobody_elses(root: Path) -> None:
    folder = root / "JPEGImages"
    (folder / "a.jpg").rename(folder / "other.jpg")
    change(root, "a.jpg", "other.jpg")
    assert photos(root) == ["other.jpg", "b.jpg"]
    change(root, "other.jpg", "b.jpg")
    with pytest.raises(UserError, match=r"a\.xml has no photo of its name in .*, and b\.jpg, .* another annotation's"):
        read_voc(root, "train")
    change(root, "b.jpg", "gone.jpg")
    with pytest.raises(UserError, match=r"a\.xml has no photo in .*JPEGImages: a and \.jpg, .*\.webp were looked for"):
        read_voc(root, "train")


def test_two_annotations_cannot_share_a_named_photo(root: Path) -> None:
    folder = root / "JPEGImages"
    (folder / "a.jpg").rename(folder / "other.jpg")
    (folder / "b.jpg").unlink()
    for stem in "ab":
        change(root, f"{stem}.jpg", "other.jpg", stem)
    with pytest.raises(UserError, match=r"has 2 mistakes:\n  a\.xml has no photo of its name"):
        read_voc(root, "train")


MISTAKES: dict[str, tuple[str, str, str]] = {
    "no corner": ("<xmin>2</xmin>", "", "object 1 (square) has no xmin"),
    "an empty corner": ("<xmin>2<", "<xmin> <", "object 1 (square) has no xmin"),
    "NaN": ("<xmin>2<", "<xmin>nan<", 'has xmin "nan" (text); expected a number of pixels'),
    "infinite": ("<xmax>10<", "<xmax>inf<", 'has xmax "inf"'),
    "huge": ("<xmax>10<", "<xmax>1e12<", 'has xmax "1e12"'),
    "negative": ("<xmax>10<", "<xmax>-7<", "object 1 (square) has a reversed box"),
    "a name of blanks": ("<name>square<", "<name>  <", "object 1 has no name"),
    "difficult as text": ("<difficult>0<", "<difficult>false<", 'has difficult "false" (text); expected 0 or 1'),
    "difficult 2": ("<difficult>0<", "<difficult>2<", 'has difficult "2"'),
    "a width of text": ("<width>40<", "<width>wide<", 'a.xml: its size has width "wide"'),
    "a negative height": ("<height>30<", "<height>-30<", 'its size has height "-30"'),
    "a huge width": ("<width>40<", "<width>1e12<", 'its size has width "1e12"'),
    "half a pixel": ("<width>40<", "<width>40.5<", "expected a whole number of pixels up to 1,000,000"),
    "entities of entities": (
        "<annotation>",
        '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>\n<annotation>',
        "a.xml has a document type (<!DOCTYPE ...>), which annotations do without; remove it",
    ),
    "an entity from outside": ("<annotation>", '<!DOCTYPE x SYSTEM "/etc/passwd">\n<annotation>', "a document type"),
    "another encoding": ("<annotation>", '<?xml version="1.0" encoding="klingon"?>\n<annotation>', "a.xml "),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_value_that_cannot_be_one_is_named(root: Path, name: str) -> None:
    old, new, part = MISTAKES[name]
    change(root, old, new)
    with pytest.raises(UserError) as error:
        read_voc(root, "train")
    assert part in str(error.value)
    assert "a.xml" in str(error.value)


@pytest.mark.parametrize("text", ["", "<size><width>0</width><height>0</height></size>", "<size><width/></size>"])
def test_a_size_that_is_not_said_is_the_photos(root: Path, text: str) -> None:
    change(root, "<size><width>40</width><height>30</height><depth>3</depth></size>", text)
    example = read_voc(root, "train")[0]
    assert (example.width, example.height) == (40, 30)


@pytest.mark.parametrize("text", ["<difficult/>", "", "<difficult> 0 </difficult>"])
def test_what_is_not_called_difficult_is_not(root: Path, text: str) -> None:
    change(root, "<difficult>0</difficult>", text)
    assert read_voc(root, "train")[0].objects.ignored.tolist() == [False]


def test_a_document_of_another_kind_is_no_photo_without_objects(root: Path) -> None:
    (root / "Annotations" / "a.xml").write_text("<html></html>")
    with pytest.raises(UserError, match=r"a\.xml is no annotation of VOC: its outermost element is <html>"):
        read_voc(root, "train")


LISTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_text("\n\n"), "names no photo"),
    "no text": (lambda file: file.write_bytes(b"\xff\xfe\xff"), "cannot be read"),
    "a zero byte": (lambda file: file.write_text("a\x00b\n"), "cannot be read"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_is_none_is_a_sentence(root: Path, name: str) -> None:
    write, part = LISTS[name]
    write(root / "ImageSets" / "Main" / "train.txt")
    with pytest.raises(UserError, match=part):
        read_voc(root, "train")
