"""Galleries: which photos, in which order, and that what is written and drawn can be read."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxft.reporting.details import Example, Object
from jaxft.reporting.gallery import OTHERS, WORST, chosen, draw_gallery, draw_inputs
from jaxft.reporting.mosaic import TEXT, Line, fitted, font, mosaic, pixels_of, shortened
from jaxft.reporting.objects import class_colors, draw_objects

COLORS = class_colors(("cat", "dog"))


def example(index: int, wrong: float, objects: tuple[Object, ...] = ()) -> Example:
    return Example(index=index, name=f"{index}.jpg", truth="a", predicted="b", wrong=wrong, objects=objects)


def test_the_most_wrong_come_first_and_others_from_all_over_the_rest() -> None:
    examples = [example(index, wrong=float(index % 50)) for index in range(100)]
    examples[7] = example(7, math.nan)
    worst, others = chosen(examples)
    assert [one.index for one in worst[:3]] == [7, 49, 99]
    assert len(worst) == WORST
    assert len(others) == OTHERS
    assert [one.index for one in others] == sorted(one.index for one in others)
    assert others[0].index == 0
    assert not {one.index for one in worst} & {one.index for one in others}
    some, none = chosen(examples[:3])
    assert (len(some), none) == (3, [])


def test_where_objects_are_kept_only_such_photos_are_the_others() -> None:
    box = (Object(label="cat", box=(0, 0, 1, 1)),)
    examples = [example(index, 1.0 if index < WORST else 0.0, box if index % 2 else ()) for index in range(40)]
    assert all(one.objects for one in chosen(examples)[1])


def test_a_gallery_is_as_large_as_its_rows(tmp_path: Path) -> None:
    def panel(one: Example, cell: tuple[int, int]) -> np.ndarray:
        return fitted(np.zeros((10, 40, 3), np.uint8), cell)[0]

    draw_gallery([example(index, 0) for index in range(8)], panel, "step 3", tmp_path / "new" / "gallery.png")
    with Image.open(tmp_path / "new" / "gallery.png") as picture:
        assert picture.width == 6 * (220 + 16)
        assert 2 * 55 < picture.height < 2 * 55 + 200


@pytest.mark.parametrize(
    "text", ["short", "a rather long name of a file that nobody will read to its end", "日本語\n" * 30]
)
def test_text_is_cut_to_its_width(text: str) -> None:
    for cut in ("end", "start"):
        found = shortened(Line(text, cut=cut), TEXT, 150)  # type: ignore[arg-type]
        assert font(TEXT).getlength(found) <= 150
        assert "\n" not in found
        assert found == text or found.strip("…") in text.replace("\n", " ")
    assert shortened(Line("abc/" * 40 + "end.jpg", cut="start"), TEXT, 150).endswith("end.jpg")


def test_images_of_any_kind_are_shown(tmp_path: Path) -> None:
    gray, floats = np.eye(8, dtype=np.uint8) * 255, np.linspace(-2, 3, 192, dtype=np.float32).reshape(8, 8, 3)
    np.testing.assert_array_equal(pixels_of(gray)[..., 2], gray)
    assert (pixels_of(floats).min(), pixels_of(floats).max()) == (0, 255)
    assert pixels_of(np.full((4, 4, 1), np.nan)).shape == (4, 4, 3)
    mosaic([gray, floats], [[Line("gray")], []], tmp_path / "some.png", cell=(80, 80))
    with Image.open(tmp_path / "some.png") as picture:
        shown = np.asarray(picture)
    assert (shown[-20, 10:80] == 0).any()


def labels(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    """How many pixels have a color."""
    return int((pixels == np.array([[color]])).all(-1).sum())


def test_names_do_not_hide_each_other() -> None:
    """Of many objects in one place as many are named as there are places beside them, the best ones."""
    photo = np.full((200, 300, 3), 90, np.uint8)
    one = Object(label="cat", box=(100, 80, 180, 140), score=0.9)
    alone = draw_objects(photo, [one], COLORS)
    twice = draw_objects(photo, [one, Object(label="dog", box=(100, 80, 180, 140), score=0.8)], COLORS)
    assert labels(twice, COLORS["dog"]) > 200
    assert labels(twice, COLORS["cat"]) == labels(alone, COLORS["cat"])
    crowd = [Object(label="dog", box=(100, 80, 180, 140), score=0.5) for _ in range(50)]
    crowded, above = draw_objects(photo, [one, *crowd], COLORS), (slice(60, 79), slice(100, 160))
    assert labels(alone[above], COLORS["cat"]) > 400
    np.testing.assert_array_equal(crowded[above], alone[above])


def test_what_is_missed_is_named_and_what_is_found_twice_is_not() -> None:
    photo = np.full((200, 300, 3), 90, np.uint8)
    drawn = {
        verdict: draw_objects(photo, [Object(label="cat", box=(100, 80, 180, 140), verdict=verdict)], COLORS)
        for verdict in ("found", "missed")
    }
    black = {verdict: labels(pixels[40:80], (0, 0, 0)) for verdict, pixels in drawn.items()}
    assert black["missed"] > 100
    assert black["found"] == 0
    plain = draw_objects(photo, [Object(label="cat", box=(100, 80, 180, 140))], COLORS, plain=True)
    assert labels(plain, COLORS["cat"]) > 300


def test_lines_and_boxes_grow_with_the_picture() -> None:
    one = Object(label="cat", box=(10, 10, 50, 30), score=0.9)
    photo, factor = fitted(np.full((50, 75, 3), 90, np.uint8), (750, 750))
    assert factor == 10
    large, small = draw_objects(photo, [one], COLORS, factor), draw_objects(photo[:50, :75], [one], COLORS)
    columns = [(pixels == np.array([[COLORS["cat"]]])).all(-1).any(0) for pixels in (large, small)]
    assert [int(np.flatnonzero(some)[0]) for some in columns] == [100, 10]
    rows = (large[250] == np.array([COLORS["cat"]])).all(-1)
    assert rows[:110].sum() == 3  # pixels of a line in a picture of 750


def test_masks_are_tinted(tmp_path: Path) -> None:
    square = Object(label="dog", box=(10, 10, 60, 60), score=0.9, outline=((10, 10, 60, 10, 60, 60, 10, 60), (0, 0)))
    drawn = draw_objects(np.zeros((100, 100, 3), np.uint8), [square], COLORS)
    assert drawn[35, 35].any()
    assert not drawn[80, 80].any()
    draw_inputs([drawn], [example(0, 0, (square,))], ("cat", "dog"), "", tmp_path / "inputs.png")
    assert (tmp_path / "inputs.png").is_file()
