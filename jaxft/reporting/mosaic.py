"""Pictures of many photos in a grid, each under a few lines of text."""

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN, SPACING, TEXT = 8, 17, 13  # pixels: around a cell, from line to line, the height of letters
CRISP = 3  # photos that are enlarged so often, or more, keep their pixels as squares


class Line(NamedTuple):
    """A line over an image, in one color. What is too long is cut at its end or its start."""

    text: str
    color: str = "black"
    cut: Literal["end", "start"] = "end"


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The letters of all pictures, those of matplotlib, which know most alphabets."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def pixels_of(image: np.ndarray) -> np.ndarray:
    """An image of any type, `[H, W]` or `[H, W, C]`, as uint8 `[H, W, 3]`; what is not uint8 is stretched to 0..255."""
    if image.dtype != np.uint8:
        numbers = np.nan_to_num(image.astype(np.float64))
        low, high = numbers.min(), numbers.max()
        image = ((numbers - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    if image.ndim == 2 or image.shape[-1] < 3:
        image = np.repeat(image.reshape(*image.shape[:2], -1)[..., :1], 3, axis=-1)
    return image[..., :3]


def fitted(image: np.ndarray, cell: tuple[int, int]) -> tuple[np.ndarray, float]:
    """A photo uint8 `[H, W, 3]` as large as it can be in a cell of a width and a height, and by how much it grew."""
    height, width = image.shape[:2]
    factor = min(cell[0] / width, cell[1] / height)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    how = Image.Resampling.NEAREST if factor >= CRISP else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize(size, how)), factor


def mosaic(
    images: Sequence[np.ndarray],
    titles: Sequence[Sequence[Line]],
    picture: Path,
    *,
    cell: tuple[int, int] = (220, 220),
    columns: int = 6,
    heading: Sequence[Line] = (),
) -> None:
    """Draws images, as of `pixels_of`, in rows, each in a cell of a width and a height under its title, as a PNG.

    Args:
        heading: lines above all.
    """
    columns = max(min(len(images), columns), 1)
    panels = [fitted(pixels_of(image), cell)[0] for image in images]
    starts = range(0, len(panels), columns)
    lines = [max(map(len, titles[start : start + columns])) for start in starts]
    downs = [max(panel.shape[0] for panel in panels[start : start + columns]) for start in starts]
    rows = [number * SPACING + down + 2 * MARGIN for number, down in zip(lines, downs, strict=True)]
    tops = [len(heading) * (SPACING + 4) + MARGIN * bool(heading)]
    for row in rows:
        tops.append(tops[-1] + row)
    across = cell[0] + 2 * MARGIN
    sheet = Image.new("RGB", (across * columns, max(tops[-1], 1)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        text = shortened(line, TEXT + 2, sheet.width - 2 * MARGIN)
        draw.text((MARGIN, MARGIN + number * (SPACING + 4)), text, fill=line.color, font=font(TEXT + 2))
    for index, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        row, column = divmod(index, columns)
        left, top = column * across + MARGIN, tops[row] + MARGIN + lines[row] * SPACING
        for number, line in enumerate(reversed(title), 1):
            text = shortened(line, TEXT, cell[0])
            draw.text((left + cell[0] / 2, top - number * SPACING), text, line.color, font(TEXT), anchor="ma")
        sheet.paste(Image.fromarray(panel), (left + (cell[0] - panel.shape[1]) // 2, top))
    save(sheet, picture)


def shortened(line: Line, size: int, width: float) -> str:
    """The text of a line, as much of it as fits into a width of so many pixels."""
    text = line.text.replace("\n", " ")
    letters = font(size)
    if letters.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if letters.getlength(_cut(text, middle, line.cut)) <= width else (low, middle - 1)
    return _cut(text, low, line.cut)


def _cut(text: str, kept: int, cut: str) -> str:
    return f"{text[:kept]}…" if cut == "end" else f"…{text[len(text) - kept :]}"


def save(image: Image.Image, picture: Path) -> None:
    """Writes an image as a PNG into a folder that is made where it is missing, on a disk or in a bucket."""
    encoded = BytesIO()
    image.save(encoded, format="PNG", compress_level=1)
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(encoded.getvalue())
