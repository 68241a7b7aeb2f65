"""Outlines are looked at before pycocotools fills them in; what passes is what pycocotools reads."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from jaxft.tasks.detection.outlines import outline_problem, run_lengths
from jaxft.tasks.detection.scene import bitmaps

WIDTH, HEIGHT = 8, 6
INF, NAN = float("inf"), float("nan")


def code(counts: Any, size: Any = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return {"size": list(size) if isinstance(size, tuple) else size, "counts": counts}


def text_of(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask))["counts"].decode()


WHOLE = text_of(np.eye(HEIGHT, WIDTH, dtype=np.uint8))
WRONG = {
    "NaN first": ([[NAN, 1, 5, 1, 5, 5]], "polygon with NaN"),
    "NaN in the middle": ([[1, 1, 5, 1, NAN, 5]], "polygon with NaN"),
    "infinite": ([[1, 1, 5, 1, 5, INF]], "polygon with Infinity"),
    "far right": ([[1, 1, 1e8, 1, 5, 5]], "polygon with 100000000.0 in it, far beyond its photo of 8 x 6 pixels"),
    "far left": ([[1, 1, 5, 1, -1e9, 5]], "polygon with -1000000000.0"),
    "far below in the second": ([[1, 1, 5, 1, 5, 5], [1, 1, 5, 1, 5, 99]], "polygon with 99"),
    "two points": ([[1, 1, 5, 5]], "2 points"),
    "half a point": ([[1, 1, 5, 1, 5, 5, 2]], "3.5 points"),
    "no point": ([[]], "0 points"),
    "numbers as text": ([["1", "1", "5", "1", "5", "5"]], "expected polygons"),
    "true": ([[True, 1, 5, 1, 5, 5]], "expected polygons"),
    "a whole number without end": ([[10**400, 1, 5, 1, 5, 5]], "expected polygons"),
    "not in a list": ([1, 1, 5, 1, 5, 5], "expected polygons"),
    "a polygon and a code": ([[1, 1, 5, 1, 5, 5], code([48])], "expected polygons"),
    "nothing": (None, "no segmentation"),
    "text": ("abc", "expected polygons"),
    "a number": (5, "expected polygons"),
    "too long": (code([40, 9]), "code of 49 pixels, but its photo has 8 x 6 = 48"),
    "too short": (code([40]), "code of 40 pixels"),
    "no runs": (code([]), "code of 0 pixels"),
    "negative": (code([50, -2]), "negative length, -2"),
    "halves": (code([47.5, 0.5]), "counts are [47.5, 0.5] (a list); expected whole numbers"),
    "runs as text": (code(["48"]), "expected whole numbers"),
    "runs without end": (code([10**400]), "expected whole numbers"),
    "null": (code(None), "counts are null"),
    "no counts": ({"size": [HEIGHT, WIDTH]}, "counts are null"),
    "empty": (code(""), "no text of COCO's"),
    "garbage": (code("hello world"), "no text of COCO's"),
    "not ASCII": (code("é"), "no text of COCO's"),
    "cut off": (code(WHOLE[:-1]), "run-length code"),
    "cut off within a length": (code("P"), "no text of COCO's"),
    "twice": (code(WHOLE + WHOLE), "run-length code"),
    "a length of 10 digits": (code("P" * 9 + "0"), "no text of COCO's"),
    "another size": (
        code([48], (WIDTH, HEIGHT)),
        "[8, 6] (a list); expected its photo's height and width, [6, 8]",
    ),
    "no size": ({"counts": [48]}, "size null"),
    "a size that is text": (code([48], "6x8"), 'size "6x8"'),
    "another text's size": (code(text_of(np.ones((5, 5), np.uint8))), "code of 25 pixels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_filled_in_is_said(name: str) -> None:
    outline, part = WRONG[name]
    assert part in (outline_problem(outline, WIDTH, HEIGHT) or "")


@pytest.mark.parametrize(
    "outline",
    [[[1, 1, 5, 1, 5, 5]], [[-8, -6, 16, -6, 16.0, 12], [0, 0, 3, 0, 3, 3]], code([48]), code([0, 48]), code(WHOLE)],
)
def test_what_can_be_filled_in_is(outline: Any) -> None:
    assert outline_problem(outline, WIDTH, HEIGHT) is None
    assert bitmaps((outline,), HEIGHT, WIDTH).shape == (1, HEIGHT, WIDTH)


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=40), st.integers(1, 200))
@settings(max_examples=100, deadline=None)
def test_lengths_are_those_of_pycocotools(lengths: list[int], height: int) -> None:
    total = sum(lengths)
    lengths.append(-total % height + height)
    width = sum(lengths) // height
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
    found = run_lengths(encoded["counts"].decode())
    assert found is not None
    assert found.tolist() == lengths
    assert outline_problem(code(encoded["counts"].decode(), (height, width)), width, height) is None
