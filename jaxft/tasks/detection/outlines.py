"""Outlines of objects, looked at before anything fills them in: pycocotools believes what it is given."""

import math
from typing import Any

import numpy as np
import pydantic

from jaxft.tasks.detection.entries import found

_Polygons = pydantic.TypeAdapter(list[list[float]], config=pydantic.ConfigDict(strict=True))
_Runs = pydantic.TypeAdapter(list[int], config=pydantic.ConfigDict(strict=True))
_DIGITS = 7  # of 5 bits each: a length of 32 bits has no more


def outline_problem(outline: Any, width: int, height: int) -> str | None:
    """What is wrong with the `segmentation` of an object in a photo of this size; None where it can be filled in.

    Right are polygons `[[x0, y0, x1, y1, ...], ...]`, which reach beyond the photo by at most its size, and run-length
    codes `{"size": [height, width], "counts": ...}` of exactly the photo's pixels, as numbers or COCO's text.
    """
    if outline is None or outline == [] or outline == {}:
        return "has no segmentation, but the model needs masks"
    if isinstance(outline, dict):
        problem = _code_problem(outline, width, height)
        return problem and f"has as segmentation a run-length code {problem}"
    try:
        polygons = _Polygons.validate_python(outline)
    except pydantic.ValidationError:
        return (
            f"has segmentation {found(outline)}; expected polygons, [[x0, y0, x1, y1, ...], ...], or a run-length code"
        )
    problem = next((problem for polygon in polygons if (problem := _polygon_problem(polygon, width, height))), None)
    return problem and f"has in its segmentation a polygon {problem}"


def _polygon_problem(polygon: list[float], width: int, height: int) -> str | None:
    if len(polygon) % 2 or len(polygon) < 6:
        return f"of {len(polygon) / 2:g} points; an outline needs at least 3"
    inside = -width <= min(polygon[::2]) and max(polygon[::2]) <= 2 * width
    inside = inside and -height <= min(polygon[1::2]) and max(polygon[1::2]) <= 2 * height
    if inside and math.isfinite(sum(polygon)):  # the comparisons may pass over NaN
        return None
    far = next((value for value in polygon if not math.isfinite(value)), max(polygon, key=abs))
    return f"with {found(far)} in it, far beyond its photo of {width} x {height} pixels"


def _code_problem(code: dict[str, Any], width: int, height: int) -> str | None:
    if code.get("size") != [height, width]:
        return f"of the size {found(code.get('size'))}; expected its photo's height and width, [{height}, {width}]"
    counts = code.get("counts")
    if isinstance(counts, str):
        lengths = run_lengths(counts)
        if lengths is None:
            return f"whose counts {found(counts)} are no text of COCO's"
    else:
        try:
            lengths = np.array(_Runs.validate_python(counts), np.float64)
        except (pydantic.ValidationError, OverflowError):
            return f"whose counts are {found(counts)}; expected whole numbers, or COCO's text"
    if lengths.min(initial=0) < 0:
        return f"with a negative length, {lengths.min():g}"
    if (total := lengths.sum()) != width * height:
        return f"of {total:g} pixels, but its photo has {width} x {height} = {width * height}"
    return None


def run_lengths(text: str) -> np.ndarray | None:
    """The lengths of the runs that COCO's text stands for, float `[N]`; None where it is not such a text.

    A length is written in base 32, the lowest digit first; each character holds a digit (plus 48) and whether more
    follow (32). The highest bit of the last digit is the sign. From the fourth on, a length is written as its
    difference to the last but one (`rleToString` of COCO's maskApi.c).
    """
    try:
        characters = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(characters) or characters.min() < 0 or characters.max() > 63 or characters[-1] & 32:
        return None
    last = np.flatnonzero(characters & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    if digits.max() > _DIGITS:
        return None
    place = np.arange(len(characters)) - np.repeat(first, digits)
    lengths = np.add.reduceat((characters & 31) << (5 * place), first)
    lengths -= np.where(characters[last] & 16, 1 << (5 * digits), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths.astype(np.float64)
