"""What the steps do that put several photos together: their chance is drawn here, as MMDetection's transforms of the
same names draw it, and where the other photos come from is not known here.

Pixels, boxes and masks are MMDetection's where it has them. It has no masks after `Mosaic` and `MixUp`: here they take
the nearest pixels, of exactly the sizes and places of their photos.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import singledispatch

import numpy as np

from jaxft.tasks.detection.mixtures import CopyPaste, Mixture, MixUp, Mosaic
from jaxft.tasks.detection.scene import (
    Scene,
    clip,
    flip,
    keep,
    outer_boxes,
    partly_inside,
    place,
    resize,
)
from jaxft.tasks.detection.steps import TrainSteps, apply

Another = Callable[[int], Scene]
"""Draws another photo; up to so many, until one has objects."""
RETRIES = 15
"""How often a step that refuses a mixed photo is tried, each time with other draws: `MultiImageMixDataset`'s
`max_refetch`."""
_Places = tuple[tuple[slice, slice], tuple[slice, slice]]  # rows and columns, of a whole and of a part of it


def run_mixing(steps: TrainSteps, scene: Scene, rng: np.random.Generator, another: Another) -> Scene | None:
    """All steps in their order; None where one of them refuses what it gets again and again."""
    for step in steps:
        changed: Scene | None
        if isinstance(step, Mixture):
            changed = mix(step, scene, rng, another)
        else:
            tries = (apply(step, scene, rng) for _ in range(RETRIES))
            changed = next((found for found in tries if found is not None), None)
        if changed is None:
            return None
        scene = changed
    return scene


@singledispatch
def mix(step: Mixture, scene: Scene, rng: np.random.Generator, another: Another) -> Scene:
    """One step that takes further photos; all of them have masks, or none."""
    raise NotImplementedError(type(step))


@mix.register
def _(step: Mosaic, scene: Scene, rng: np.random.Generator, another: Another) -> Scene:
    if rng.random() > step.prob:
        return scene
    x, y = (int(rng.uniform(*step.center_ratio_range) * side) for side in step.img_scale)
    return mosaic(step, [scene, *(another(1) for _ in range(3))], x, y)


def mosaic(step: Mosaic, scenes: Sequence[Scene], x: int, y: int) -> Scene:
    """Four scenes around a point: upper left, upper right, lower left and lower right."""
    width, height = (2 * side for side in step.img_scale)
    pixels = np.full((height, width, 3), int(step.pad_val), np.uint8)
    parts, places = [], []
    for scene, (down, across) in zip(scenes, _ENDS, strict=True):
        size, factor = _fitting(scene, *step.img_scale)
        top, left = y - down * size[0], x - across * size[1]
        boxes = scene.boxes * np.float32(factor) + np.array([left, top, left, top], np.float32)
        if step.bbox_clip_border:
            boxes = clip(boxes, height, width)
        inside = partly_inside(boxes, height, width)
        part = resize(keep(scene, inside), *size)
        there, here = _shared(size, top, left, height, width)
        pixels[there] = part.pixels[here]
        parts.append(replace(part, boxes=boxes[inside]))
        places.append((there, here))
    return _together(pixels, parts, _placed_masks(parts, places, height, width))


_ENDS = ((1, 1), (1, 0), (0, 1), (0, 0))
"""Of each part of a mosaic: whether its end and not its start is at the point, of rows and of columns."""


def _placed_masks(parts: Sequence[Scene], places: Sequence[_Places], height: int, width: int) -> np.ndarray | None:
    """The masks of all parts in one photo of a size."""
    if any(part.masks is None for part in parts):
        return None
    masks, first = np.zeros((sum(len(part.boxes) for part in parts), height, width), np.uint8), 0
    for part, (there, here) in zip(parts, places, strict=True):
        assert part.masks is not None
        masks[first : first + len(part.boxes), *there] = part.masks[:, *here]
        first += len(part.boxes)
    return masks


def _fitting(scene: Scene, width: int, height: int) -> tuple[tuple[int, int], float]:
    """Height and width, rounded down, of a scene as large as fits into a size with the ratio of its sides as it is; and
    the factor before the rounding, which is that of the boxes."""
    factor = min(height / scene.size[0], width / scene.size[1])
    return (max(int(scene.size[0] * factor), 1), max(int(scene.size[1] * factor), 1)), factor


def _shared(size: tuple[int, int], top: int, left: int, height: int, width: int) -> _Places:
    """Rows and columns, in a photo of `height` and `width` and in one of `size` whose corner is at `top`, `left` of it,
    of what the two have in common."""
    there, here = [], []
    for start, length, whole in ((top, size[0], height), (left, size[1], width)):
        first, last = max(start, 0), min(start + length, whole)
        there.append(slice(first, max(last, first)))
        here.append(slice(first - start, max(last, first) - start))
    return (there[0], there[1]), (here[0], here[1])


def _together(pixels: np.ndarray, parts: Sequence[Scene], masks: np.ndarray | None) -> Scene:
    """The objects of several scenes in one photo, for which `masks` are there already."""
    boxes, labels, ignored = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "labels", "ignored")
    )
    return Scene(pixels, boxes, labels, ignored, masks)


def _visible(scene: Scene) -> Scene:
    """Without objects whose boxes are wholly outside."""
    inside = partly_inside(scene.boxes, *scene.size)
    return scene if inside.all() else keep(scene, inside)


@mix.register
def _(step: MixUp, scene: Scene, rng: np.random.Generator, another: Another) -> Scene:
    other = another(step.max_iters)
    if not len(other.boxes):
        return scene
    factor = rng.uniform(*step.ratio_range)
    other = jittered(step, other, factor, turned=rng.random() > step.flip_ratio)
    spare = (found - side for found, side in zip(other.size, scene.size, strict=True))
    top, left = (int(rng.integers(most)) if most > 0 else 0 for most in spare)
    return mixup(step, scene, other, top, left)


def jittered(step: MixUp, other: Scene, factor: float, *, turned: bool) -> Scene:
    """The other photo of a `MixUp`: fitted into the upper left corner of a photo of one color, which is resized by a
    factor and perhaps turned left to right."""
    width, height = step.img_scale
    size, before = _fitting(other, width, height)
    canvas = place(resize(other, *size), 0, 0, height, width, _color(step))
    canvas = resize(canvas, max(int(height * factor), 1), max(int(width * factor), 1))
    boxes = other.boxes * np.float32(before * factor)
    canvas = replace(canvas, boxes=clip(boxes, *canvas.size) if step.bbox_clip_border else boxes)
    return flip(canvas) if turned else canvas


def mixup(step: MixUp, scene: Scene, other: Scene, top: int, left: int) -> Scene:
    """The mean of a photo and of the part of another one that begins at a place, rounded down."""
    height, width = scene.size
    rows, columns = (max(sides) for sides in zip(scene.size, other.size, strict=True))
    other = place(other, 0, 0, rows, columns, _color(step))
    part = slice(top, top + height), slice(left, left + width)
    boxes = other.boxes - np.array([left, top, left, top], np.float32)
    moved = replace(other, boxes=clip(boxes, height, width) if step.bbox_clip_border else boxes)
    masks = None
    if scene.masks is not None and other.masks is not None:
        masks = np.concatenate([scene.masks, other.masks[:, *part]])
    one, two = scene.pixels, other.pixels[part]
    mean = (one & two) + ((one ^ two) >> 1)  # rounded down, and no sum is larger than 255
    return _visible(_together(mean, [scene, moved], masks))


def _color(step: MixUp) -> np.ndarray:
    return np.full(3, int(step.pad_val), np.uint8)


@mix.register
def _(step: CopyPaste, scene: Scene, rng: np.random.Generator, another: Another) -> Scene:
    other, chosen = another(1), np.arange(0)
    count = len(other.boxes)
    if not step.selected:
        chosen = np.arange(count)
    elif (most := int(rng.integers(min(count + 1, step.max_num_pasted)))) > 0:
        chosen = rng.choice(count, most, replace=False)
    return copy_paste(step, scene, keep(other, chosen)) if len(chosen) else scene


def copy_paste(step: CopyPaste, scene: Scene, pasted: Scene) -> Scene:
    """All objects of another scene, of which there are some, pasted at the same place.

    An object of which no pixel is left goes. MMDetection compares the box of such a one as if it were zeros, so that
    it keeps, without a size, those within `bbox_occluded_thr` of the corner.
    """
    assert scene.size == pasted.size, f"{scene.size} and {pasted.size}"
    on_top, behind = (_filled(one) if one.masks is None else one.masks for one in (pasted, scene))
    covered = on_top.any(axis=0)
    behind = np.where(covered, np.uint8(0), behind)
    boxes, left = outer_boxes(behind), behind.sum(axis=(1, 2), dtype=np.int64)
    moved = np.abs(boxes - scene.boxes).max(axis=1, initial=0)
    kept = (left > 0) & ((moved <= step.bbox_occluded_thr) | (left > step.mask_occluded_thr))
    pixels = np.where(covered[..., None], pasted.pixels, scene.pixels)
    masks = None if scene.masks is None else np.concatenate([behind[kept], on_top])
    return _together(pixels, [keep(replace(scene, boxes=boxes), kept), pasted], masks)


def _filled(scene: Scene) -> np.ndarray:
    """A mask of each box, whose edges are rounded down to whole pixels: uint8 `[K, H, W]`."""
    masks = np.zeros((len(scene.boxes), *scene.size), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, scene.boxes.clip(0).astype(int).tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    return masks
