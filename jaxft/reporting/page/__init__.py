"""Pages of plain blocks, each one file that needs no network: what they hold, and how they become HTML."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxft.reporting.details import Cell, Confusion, Example, Object, Plot, Table
from jaxft.reporting.page.plots import to_plotly

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Facts:
    """Names and values, a row each."""

    rows: Mapping[str, str]
    title: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence, and a command that follows from it."""

    text: str
    command: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture in its whole width."""

    title: str
    source: str


@dataclass(frozen=True)
class Photo:
    """A photo with what is said of it.

    Attributes:
        source: of the picture, as `embedded` gives it; empty where it is gone.
        lines: what to write under it; `wrong` whether they are to stand out.
        link: the file; empty where it has none.
        size: width and height that `objects` are measured on.
        over: a picture of the same size to lie over it, such as a heat map; empty for none.
    """

    source: str
    lines: tuple[str, ...]
    wrong: bool = False
    link: str = ""
    size: tuple[int, int] = (0, 0)
    objects: tuple[Object, ...] = ()
    over: str = ""


@dataclass(frozen=True)
class Gallery:
    """Photos side by side; with objects in them a slider chooses the least score that is drawn."""

    title: str
    photos: Sequence[Photo]
    text: str = ""

    @property
    def scored(self) -> bool:
        """Whether an object has a score."""
        return any(each.score is not None for photo in self.photos for each in photo.objects)


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix; a click on a cell shows its examples, and the pictures that there are of them."""

    confusion: Confusion
    examples: Sequence[Example]
    pictures: Mapping[int, str] = field(default_factory=dict)


Block = Facts | Note | Picture | Gallery | Matrix | Table | Plot


@dataclass(frozen=True)
class Section:
    """A part of a page, with an anchor."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def embedded(pixels: np.ndarray, longest: int, quality: int = 80) -> str:
    """uint8 `[H, W, 3]` as a JPEG inside the page, made smaller where a side is longer than `longest`."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest))
    return _data(image, "JPEG", quality=quality)


def embedded_file(file: Path, longest: int = 1600) -> str:
    """A picture file as a WebP inside the page; empty where it is not there or no picture."""
    try:
        with Image.open(io.BytesIO(file.read_bytes())) as image:
            image.load()
            image.thumbnail((longest, 100 * longest))
            return _data(image.convert("RGB"), "WEBP", quality=85)
    except OSError:
        return ""


def embedded_overlay(pixels: np.ndarray) -> str:
    """uint8 `[H, W, 4]` with transparency as a PNG inside the page."""
    return _data(Image.fromarray(pixels), "PNG")


def _data(image: Image.Image, form: str, **options: Any) -> str:
    encoded = io.BytesIO()
    image.save(encoded, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def link_to(file: str) -> str:
    """The address of a file; empty for none."""
    return Path(file).as_uri() if file.startswith("/") else ""


def render(page: Page) -> str:
    """A page as HTML. Whatever comes from data is escaped: file names and classes are text."""
    import jinja2  # imports take a moment, and so does what draws the plots
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"cell": cell, "plain": plain, "kind": lambda block: type(block).__name__.lower()}
    has_plots = any(isinstance(block, Plot) for section in page.sections for block in section.blocks)
    return environment.get_template("page.html").render(
        page=page,
        style=(HERE / "page.css").read_text(),
        script=(HERE / "page.js").read_text(),
        plotly=get_plotlyjs() if has_plots else "",
        matrix=matrix,
        plotted=to_plotly,
        drawn=drawn,
    )


def cell(value: Cell) -> str:
    """A cell of a table in words."""
    match value:
        case None:
            return ""
        case float():
            return _number(value)
        case int():
            return f"{value:,}"
    return value


def _number(value: float) -> str:
    if value != value:
        return "n/a"
    return f"{value:.4g}" if abs(value) >= 10 or 0 < abs(value) < 1e-3 else f"{value:.4f}".rstrip("0").rstrip(".")


def plain(value: Any) -> str:
    """As JSON within a script element: no text can end it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def matrix(block: Matrix) -> dict[str, Any]:
    """What the script shows of the examples of a cell."""
    cells: dict[str, list[int]] = {}
    for place, example in enumerate(block.examples):
        for row, column in example.cells:
            cells.setdefault(f"{row},{column}", []).append(place)
    return {
        "examples": [
            [each.name, each.truth, each.predicted, link_to(each.file), block.pictures.get(each.index, "")]
            for each in block.examples
        ],
        "cells": {
            key: sorted(places, key=lambda place: (block.examples[place].index not in block.pictures,
                                                   -block.examples[place].wrong))
            for key, places in cells.items()
        },
    }  # fmt: skip


def drawn(photo: Photo) -> list[dict[str, Any]]:
    """What the script draws into a photo, in pixels of the stored one."""
    return [
        {
            "label": each.label,
            "box": [round(side, 1) for side in each.box],
            "score": None if each.score is None else round(each.score, 4),
            "verdict": each.verdict,
            "outline": [" ".join(f"{value:.1f}" for value in polygon) for polygon in each.outline],
        }
        for each in photo.objects
        if math.isfinite(sum(each.box) + (each.score or 0.0))
    ]
