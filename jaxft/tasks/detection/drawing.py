"""Photos with the objects that were found drawn into them."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from jaxft.tasks.detection.found import Found

_COLORS = [tuple(round(255 * part) for part in color) for color in matplotlib.colormaps["tab10"].colors]  # type: ignore[attr-defined]


def draw_objects(pixels: np.ndarray, found: Found, truth: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """A photo uint8 `[H, W, 3]` with a frame, a name and a score for each object, and its mask tinted.

    Args:
        truth: boxes `[T, 4]` of the ground truth, which are drawn thin and white below all else.
    """
    tinted = pixels.astype(np.float32)
    for code, label in zip(found.codes, found.labels, strict=False):
        inside = coco_mask.decode(code).astype(bool)
        tinted[inside] = 0.5 * tinted[inside] + 0.5 * np.array([_COLORS[label % len(_COLORS)]], np.float32)
    image = Image.fromarray(tinted.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    thick = max(round(max(image.size) / 400), 1)
    font = ImageFont.load_default(max(10.0, max(image.size) / 45))
    for box in truth.tolist():
        draw.rectangle(box, outline="white", width=1)
    order = np.argsort(found.scores)  # the best lie on top
    for box, label, score in zip(
        *(part[order].tolist() for part in (found.boxes, found.labels, found.scores)), strict=True
    ):
        color = _COLORS[label % len(_COLORS)]
        draw.rectangle(box, outline=color, width=thick)
        text = f"{classes[label]} {score:.2f}"
        corner = (box[0], max(box[1] - font.getbbox(text)[3] - 2, 0))
        draw.rectangle(draw.textbbox(corner, text, font=font), fill=color)
        draw.text(corner, text, fill="white", font=font)
    return np.asarray(image)
