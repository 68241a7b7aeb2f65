"""Which boxes of a split can be learned from, and files whose boxes as a whole cannot be what they seem."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxft.errors import UserError

_FEW = 10  # so many boxes say nothing of how a file was written
ROUNDING = 0.05
"""Pixels: annotations are rounded to hundredths."""


class Usable(NamedTuple):
    """What becomes of `N` boxes.

    Attributes:
        corners: float `[N, 4]`, x0, y0, x1, y1, clipped to the photo.
        kept: bool `[N]`, to learn from.
        outside: boxes to learn from that reached beyond their photo.
        flat, no_area, set_aside: how many are left out for being narrower or lower than a pixel, without an area,
            marked `ignore`.
    """

    corners: np.ndarray
    kept: np.ndarray
    outside: int
    flat: int
    no_area: int
    set_aside: int


def box_problem(box: Sequence[float], width: float, height: float) -> str | None:
    """What is wrong with corners x0, y0, x1, y1 in a photo of a size; None where it can be used or clipped."""
    x0, y0, x1, y1 = box
    if x1 < x0 or y1 < y0:
        return f"has a reversed box: from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        written = f"({', '.join(f'{value:g}' for value in box)})"
        return f"has the box {written}, which lies outside its photo of {width:g} x {height:g} pixels"
    return None


def refuse_shares(where: str, boxes: np.ndarray) -> None:
    """Refuses boxes `[N, 4]`, as they stand in the file, of which most lie within 0..1.

    Raises:
        UserError: they do.
    """
    shares = int(((boxes >= 0) & (boxes <= 1)).all(1).sum())
    if 2 * shares > len(boxes):
        raise UserError(
            f"{where}: {shares:,} of the {len(boxes):,} boxes lie within 0..1, so they are probably shares of the "
            "photo's width and height; multiply them by its size, because boxes are in pixels."
        )


def usable(
    where: str, boxes: np.ndarray, photos: np.ndarray, areas: np.ndarray, ignore: np.ndarray, crowd: np.ndarray
) -> Usable:
    """Leaves out what MMDetection's `CocoDataset` leaves out, and clips the rest.

    Args:
        where: the file, for messages.
        boxes: float `[N, 4]`, x, y, width, height; `box_problem` has nothing against them.
        photos: float `[N, 2]`, width and height of each box's photo.
        areas, ignore, crowd: `[N]`, as in COCO.

    Raises:
        UserError: nothing is left to find, or most of the boxes are left out or are corners instead of sizes.
    """
    sizes, low = boxes[:, 2:], boxes[:, :2]
    flat = ~ignore & (sizes < 1).any(1)
    no_area = ~ignore & ~flat & (areas <= 0)
    kept = ~(ignore | flat | no_area)
    corners = np.concatenate([low.clip(min=0), np.minimum(low + sizes, photos)], 1)
    beyond = np.minimum(low, photos - low - sizes).min(1, initial=np.inf)
    found = Usable(corners, kept, *(int(some.sum()) for some in (kept & (beyond < -ROUNDING), flat, no_area, ignore)))
    total = len(boxes)
    if 2 * found.no_area > total:
        raise UserError(
            f'{where}: {found.no_area:,} of the {total:,} boxes have "area": 0, so that they would be left out. '
            "Write the objects' areas in pixels, or leave the field out, and width times height will count."
        )
    if 2 * found.flat > total:
        raise UserError(
            f"{where}: {found.flat:,} of the {total:,} boxes are narrower or lower than a pixel, so that they would be "
            "left out; are they in another unit? Boxes are in pixels of the photo."
        )
    if total and not (kept & ~crowd).any():
        raise UserError(
            f"{where} has no object to find: of {total:,} boxes {found.set_aside:,} are marked ignore, "
            f"{int((kept & crowd).sum()):,} are crowds or difficult, {found.flat:,} are narrower or lower than a "
            f"pixel, {found.no_area:,} have the area 0."
        )
    # Of corners that are read as a corner and a size, most seem to reach too far; but as corners they all fit.
    as_corners = ((sizes >= low) & (sizes <= photos + 1)).all(1)
    if total > _FEW and 2 * int((beyond < -1).sum()) > total and as_corners.mean() > 0.95:
        raise UserError(
            f"{where}: {int((beyond < -1).sum()):,} of the {total:,} boxes reach beyond their photo, so they are "
            "probably corners (x0, y0, x1, y1); COCO's bbox is x, y, width, height."
        )
    return found
