"""Objects drawn into a photo: those that are there, and those that were found."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from jaxft.reporting.details import Object
from jaxft.reporting.mosaic import font

TINT = 110  # of 255, how much of a mask's color covers the photo
GRAY, BLACK, WHITE = (128, 128, 128), (0, 0, 0), (255, 255, 255)

Color = tuple[int, int, int]


def class_colors(classes: Sequence[str]) -> dict[str, Color]:
    """A color for each class, ten in turn, or twenty where there are more."""
    colors = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    rounded = [tuple(round(255 * part) for part in color) for color in colors]
    return {name: rounded[index % len(rounded)] for index, name in enumerate(classes)}


class Frame(NamedTuple):
    """A rectangle in pixels of a picture: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: "Frame") -> float:
        """How many pixels lie in both."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)


class Name(NamedTuple):
    """A name to be written beside a box, and the color below it."""

    text: str
    box: Frame
    ground: Color


def draw_objects(
    pixels: np.ndarray,
    objects: Sequence[Object],
    colors: Mapping[str, Color],
    factor: float = 1.0,
    *,
    plain: bool = False,
) -> np.ndarray:
    """A photo uint8 `[H, W, 3]` with a frame and a name for each object, and its mask tinted.

    What is there has a white frame with black dashes, what was found one in the color of its class and its score. Lines
    and letters suit the size of the picture. What is there and was found has no name of its own, which would be the
    same once more. No name lies over another: those of what was missed and of the best scores find a place first, and
    what finds none is left out.

    Args:
        objects: in pixels of the photo before it grew by `factor`.
        colors: of the classes; see `class_colors`.
        plain: frames of what is there have the color of its class, as where nothing was to be found yet.
    """
    found = sorted((one for one in objects if one.score is not None), key=lambda one: one.score or 0.0)
    truth = [one for one in objects if one.score is None]
    image = _tinted(pixels, [*truth, *found], colors, factor)
    draw = ImageDraw.Draw(image)
    thick = max(round(max(image.size) / 250), 1)
    for one in truth:
        if plain:
            draw.rectangle(_scaled(one, factor), outline=colors.get(one.label, GRAY), width=thick)
        else:
            _dashed(draw, _scaled(one, factor), 1 if one.verdict == "found" else thick)
    for one in found:
        draw.rectangle(_scaled(one, factor), outline=colors.get(one.label, GRAY), width=thick)
    names = [
        Name(one.label, _scaled(one, factor), colors.get(one.label, GRAY) if plain else BLACK)
        for one in truth
        if one.verdict != "found"
    ]
    names += [
        Name(f"{one.label} {one.score:.2f}", _scaled(one, factor), colors.get(one.label, GRAY))
        for one in reversed(found)
    ]
    _write(names, image)
    return np.asarray(image)


def _scaled(one: Object, factor: float) -> Frame:
    return Frame(*(side * factor for side in one.box))


def _tinted(pixels: np.ndarray, objects: Sequence[Object], colors: Mapping[str, Color], factor: float) -> Image.Image:
    """The photo under the masks of objects, the last ones on top."""
    image = Image.fromarray(pixels)
    if not any(one.outline for one in objects):
        return image
    veil = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(veil)
    for one in objects:
        for polygon in one.outline:
            if len(polygon) >= 6:
                draw.polygon([side * factor for side in polygon], fill=(*colors.get(one.label, GRAY), TINT))
    return Image.alpha_composite(image.convert("RGBA"), veil).convert("RGB")


def _dashed(draw: ImageDraw.ImageDraw, frame: Frame, thick: int) -> None:
    """A white frame with black dashes, which is seen on any ground."""
    left, top, right, bottom = frame
    draw.rectangle(frame, outline=WHITE, width=thick)
    dash = 4.0 * thick
    for start in np.arange(left, right, 2 * dash).tolist():
        for level in (top, bottom - thick + 1):
            draw.rectangle((start, level, min(start + dash, right), level + thick - 1), fill=BLACK)
    for start in np.arange(top, bottom, 2 * dash).tolist():
        for level in (left, right - thick + 1):
            draw.rectangle((level, start, level + thick - 1, min(start + dash, bottom)), fill="black")


def _write(names: Sequence[Name], image: Image.Image) -> None:
    """Writes names beside their boxes, the first ones first, where they hide no other."""
    draw, letters = ImageDraw.Draw(image), font(max(10, round(max(image.size) / 36)))
    taken: list[Frame] = []
    for name in names:
        width, height = letters.getlength(name.text) + 4, sum(letters.getmetrics())
        places = _places(name.box, width, height, image.size)
        place = next((place for place in places if not any(place.shared(other) > 0 for other in taken)), None)
        if place is None:
            continue
        taken.append(place)
        bright = 0.3 * name.ground[0] + 0.59 * name.ground[1] + 0.11 * name.ground[2] > 150
        draw.rectangle(place, fill=name.ground)
        draw.text((place.left + 2, place.top), name.text, fill="black" if bright else "white", font=letters)


def _places(box: Frame, width: float, height: float, size: tuple[int, int]) -> Iterator[Frame]:
    """Where a name may stand: above its box, below it, inside, at its left or right end; within the picture."""
    for top in (box.top - height - 1, box.bottom + 1, box.top + 1, box.bottom - height - 1):
        for left in (box.left, box.right - width):
            if top < 0 or top + height > size[1]:
                continue
            left = min(max(left, 0.0), max(size[0] - width, 0.0))
            yield Frame(left, top, left + width, top + height)
