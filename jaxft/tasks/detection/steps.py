"""What the steps of a configuration do to a scene: their chance is drawn here, and `scene` does the rest.

Draws follow MMDetection's and mmcv's transforms of the same names.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch

import numpy as np

from jaxft.tasks.detection import Detection
from jaxft.tasks.detection.mixtures import TrainTransform
from jaxft.tasks.detection.scene import (
    Distortion,
    Scene,
    crop,
    flip,
    keep,
    place,
    resize,
    resized_size,
    shift_hsv,
    warp,
)
from jaxft.tasks.detection.transforms import (
    Expand,
    FilterAnnotations,
    MinIoURandomCrop,
    Pad,
    PhotoMetricDistortion,
    RandomAffine,
    RandomChoice,
    RandomChoiceResize,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
    Transform,
    WidthHeight,
    YOLOXHSVRandomAug,
)

AnyResize = Resize | RandomResize | RandomChoiceResize
Steps = Sequence[Transform]
TrainSteps = Sequence[TrainTransform]


def training_steps(fields: Detection) -> TrainSteps:
    """The steps of training that follow `photo_transforms`: those that the fields list, or those that the simple fields
    stand for."""
    if fields.transforms:
        return fields.transforms
    steps: list[Transform] = [PhotoMetricDistortion()] if fields.distort else []
    if fields.scale_draw == "choice":
        steps.append(RandomChoiceResize(scales=fields.scales, keep_ratio=True, rounding=fields.rounding))
    else:
        longest, shortest = [max(scale) for scale in fields.scales], [min(scale) for scale in fields.scales]
        ends = (min(longest), min(shortest)), (max(longest), max(shortest))
        steps.append(RandomResize(scale=ends, keep_ratio=True, rounding=fields.rounding))
    if fields.crop is not None:
        steps.append(RandomCrop(crop_size=fields.crop, crop_type=fields.crop_kind, allow_negative_crop=True))
    return (*steps, RandomFlip(prob=fields.flip))


def evaluation_steps(fields: Detection) -> Sequence[Resize | Pad]:
    """The steps of evaluation and prediction."""
    return fields.test_transforms or (Resize(scale=fields.test_scale, keep_ratio=True, rounding=fields.rounding),)


def only_scale(steps: Sequence[Resize | Pad]) -> WidthHeight | None:
    """The scale of a single `Resize` that keeps the ratio and is bilinear; None where there is anything else."""
    match tuple(steps):
        case (Resize(scale=scale, keep_ratio=True, interpolation="bilinear"),):
            return scale
    return None


def run(steps: Steps, scene: Scene, rng: np.random.Generator) -> Scene | None:
    """All steps in their order; None where one of them wants another photo."""
    for step in steps:
        changed = apply(step, scene, rng)
        if changed is None:
            return None
        scene = changed
    return scene


@singledispatch
def apply(step: Transform, scene: Scene, rng: np.random.Generator) -> Scene | None:
    """One step; None where it wants another photo in the place of this one."""
    raise NotImplementedError(type(step))


def scale_of(step: Resize, height: int, width: int) -> WidthHeight:
    """The scale of a `Resize`, which a factor makes of the photo's size."""
    if step.scale is not None:
        return step.scale
    assert step.scale_factor is not None
    across, down = step.scale_factor
    return int(width * across + 0.5), int(height * down + 0.5)


def size_at(step: AnyResize, height: int, width: int, scale: WidthHeight) -> tuple[int, int]:
    """Height and width of a photo that is resized to a scale."""
    if step.keep_ratio:
        return resized_size(height, width, scale, step.rounding)
    return max(scale[1], 1), max(scale[0], 1)


def ends_of(step: RandomResize) -> tuple[WidthHeight, WidthHeight]:
    """The smallest and the largest scale that is drawn."""
    if step.ratio_range is None:
        (first, second), (third, fourth) = step.scale  # type: ignore[misc]
        return (min(first, third), min(second, fourth)), (max(first, third), max(second, fourth))
    least, most = (_times(step.scale, ratio) for ratio in step.ratio_range)  # type: ignore[arg-type]
    return least, most


def _times(scale: WidthHeight, ratio: float) -> WidthHeight:
    return max(int(scale[0] * ratio), 1), max(int(scale[1] * ratio), 1)


def _resized(step: AnyResize, scene: Scene, scale: WidthHeight) -> Scene:
    size = size_at(step, *scene.size, scale)
    return resize(scene, *size, interpolation=step.interpolation, clipped=step.clip_object_border)


@apply.register
def _(step: Resize, scene: Scene, rng: np.random.Generator) -> Scene:
    return _resized(step, scene, scale_of(step, *scene.size))


@apply.register
def _(step: RandomResize, scene: Scene, rng: np.random.Generator) -> Scene:
    if step.ratio_range is None:
        least, most = ends_of(step)
        width, height = (int(rng.integers(low, high, endpoint=True)) for low, high in zip(least, most, strict=True))
        return _resized(step, scene, (width, height))
    return _resized(step, scene, _times(step.scale, rng.uniform(*step.ratio_range)))  # type: ignore[arg-type]


@apply.register
def _(step: RandomChoiceResize, scene: Scene, rng: np.random.Generator) -> Scene:
    return _resized(step, scene, step.scales[int(rng.integers(len(step.scales)))])


@apply.register
def _(step: RandomFlip, scene: Scene, rng: np.random.Generator) -> Scene:
    directions = step.direction if isinstance(step.direction, tuple) else (step.direction,)
    shares = step.prob if isinstance(step.prob, tuple) else (step.prob / len(directions),) * len(directions)
    drawn = int(np.searchsorted(np.cumsum(shares), rng.random(), side="right"))
    return flip(scene, directions[drawn]) if drawn < len(directions) else scene


@apply.register
def _(step: RandomCrop, scene: Scene, rng: np.random.Generator) -> Scene | None:
    place = draw_crop(*scene.size, step, rng)
    cut = crop(scene, *place, clipped=step.bbox_clip_border, recomputed=step.recompute_bbox)
    return cut if len(cut.boxes) or step.allow_negative_crop else None


def draw_crop(height: int, width: int, step: RandomCrop, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Where to cut: `(top, left, height, width)` inside a photo of this size."""
    first, second = step.crop_size
    if step.crop_type == "absolute":
        crop_width, crop_height = min(int(first), width), min(int(second), height)
    elif step.crop_type == "absolute_range":
        crop_height, crop_width = (
            int(rng.integers(min(side, int(first)), min(side, int(second)), endpoint=True)) for side in (height, width)
        )
    else:
        relative = step.crop_type == "relative"
        shares = (second, first) if relative else (rng.uniform(first, 1), rng.uniform(second, 1))
        crop_height, crop_width = int(height * shares[0] + 0.5), int(width * shares[1] + 0.5)
    crop_height, crop_width = max(crop_height, 1), max(crop_width, 1)
    top = int(rng.integers(0, height - crop_height, endpoint=True))
    left = int(rng.integers(0, width - crop_width, endpoint=True))
    return top, left, crop_height, crop_width


@apply.register
def _(step: MinIoURandomCrop, scene: Scene, rng: np.random.Generator) -> Scene:
    height, width = scene.size
    while True:
        least = float(rng.choice([1.0, *step.min_ious, 0.0]))
        if least == 1:
            return scene
        for _ in range(50):
            share_width, share_height, left, top = rng.uniform([step.min_crop_size] * 2 + [0, 0], 1)
            new_width, new_height = share_width * width, share_height * height
            corner = left * (width - new_width), top * (height - new_height)
            part = tuple(int(side) for side in (*corner, corner[0] + new_width, corner[1] + new_height))
            if 0.5 <= new_height / new_width <= 2 and (found := overlapping_crop(step, scene, part, least)) is not None:
                return found


def overlapping_crop(step: MinIoURandomCrop, scene: Scene, part: tuple[int, ...], least: float) -> Scene | None:
    """The part left, top, right, bottom with the objects whose center is inside; None where it is empty, overlaps an
    object too little (intersection over union), or holds no center though there are objects."""
    left, top, right, bottom = part
    if right <= left or bottom <= top:
        return None
    boxes = scene.boxes
    if len(boxes):
        sides = np.minimum(boxes[:, 2:], [right, bottom]) - np.maximum(boxes[:, :2], [left, top])
        shared = sides.clip(0).prod(axis=1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        if (shared / (areas + (right - left) * (bottom - top) - shared)).min() < least:
            return None
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centers > [left, top]) & (centers < [right, bottom])).all(axis=1)
        if not inside.any():
            return None
        scene = keep(scene, inside)
    return crop(scene, top, left, bottom - top, right - left, clipped=step.bbox_clip_border)


@apply.register
def _(step: Expand, scene: Scene, rng: np.random.Generator) -> Scene:
    if rng.random() > step.prob:
        return scene
    ratio, across, down = rng.uniform([step.ratio_range[0], 0, 0], [step.ratio_range[1], 1, 1])
    (height, width), color = scene.size, step.mean if step.to_rgb else step.mean[::-1]
    left, top = int(across * (width * ratio - width)), int(down * (height * ratio - height))
    return place(scene, top, left, int(height * ratio), int(width * ratio), np.array(color, np.uint8))


def padded_size(step: Pad, height: int, width: int) -> tuple[int, int]:
    """Height and width after a `Pad`."""
    if step.size is not None:
        return max(height, step.size[1]), max(width, step.size[0])
    if step.pad_to_square:
        height = width = max(height, width)
    divisor = step.size_divisor or 1
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


@apply.register
def _(step: Pad, scene: Scene, rng: np.random.Generator) -> Scene:
    color = np.broadcast_to(np.round(step.pad_val).astype(np.uint8), 3)
    return place(scene, 0, 0, *padded_size(step, *scene.size), color)


@apply.register
def _(step: PhotoMetricDistortion, scene: Scene, rng: np.random.Generator) -> Scene:
    return replace(scene, pixels=draw_distortion(step, rng)(scene.pixels))


def draw_distortion(step: PhotoMetricDistortion, rng: np.random.Generator) -> Distortion:
    """Each change with probability one half."""
    first, brightness, contrast, saturation, hue, swap = rng.integers(0, 2, 6).astype(bool)
    red, green, blue = rng.permutation(3).tolist()
    ranges = (
        (-step.brightness_delta, step.brightness_delta),
        step.contrast_range,
        step.saturation_range,
        (-step.hue_delta, step.hue_delta),
    )
    draws = rng.uniform(*np.transpose(ranges)).tolist()
    return Distortion(
        brightness=draws[0] if brightness else 0.0,
        contrast=draws[1] if contrast else 1.0,
        contrast_first=bool(first),
        saturation=draws[2] if saturation else 1.0,
        hue=draws[3] if hue else 0.0,
        order=(red, green, blue) if swap else (0, 1, 2),
    )


@apply.register
def _(step: YOLOXHSVRandomAug, scene: Scene, rng: np.random.Generator) -> Scene:
    gains = rng.uniform(-1, 1, 3) * [step.hue_delta, step.saturation_delta, step.value_delta]
    hue, saturation, value = (gains * rng.integers(0, 2, 3)).astype(int).tolist()
    return replace(scene, pixels=shift_hsv(scene.pixels, hue, saturation, value))


@apply.register
def _(step: RandomAffine, scene: Scene, rng: np.random.Generator) -> Scene:
    height, width = affine_size(step, *scene.size)
    matrix = draw_affine(step, height, width, rng)
    return warp(scene, matrix, height, width, step.border_val, clipped=step.bbox_clip_border)


def affine_size(step: RandomAffine, height: int, width: int) -> tuple[int, int]:
    """Height and width after a `RandomAffine`."""
    return height + 2 * step.border[1], width + 2 * step.border[0]


def draw_affine(step: RandomAffine, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Where the points of a photo go, float32 `[3, 3]`: scaled, then rotated, sheared and shifted, by shares of the
    height and width that come out."""
    angle = math.radians(rng.uniform(-step.max_rotate_degree, step.max_rotate_degree))
    factor = rng.uniform(*step.scaling_ratio_range)
    most = step.max_shear_degree, step.max_translate_ratio
    shear = [math.tan(math.radians(rng.uniform(-most[0], most[0]))) for _ in range(2)]
    across, down = rng.uniform(-most[1], most[1]) * width, rng.uniform(-most[1], most[1]) * height
    rotation = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    parts = (
        [[1, 0, across], [0, 1, down], [0, 0, 1]],
        [[1, shear[0], 0], [shear[1], 1, 0], [0, 0, 1]],
        rotation,
        [[factor, 0, 0], [0, factor, 0], [0, 0, 1]],
    )
    # float32, as in MMDetection: the last digit decides which pixel is the nearest.
    shifted, sheared, rotated, scaled = (np.array(part, np.float32) for part in parts)
    return shifted @ sheared @ rotated @ scaled


@apply.register
def _(step: FilterAnnotations, scene: Scene, rng: np.random.Generator) -> Scene | None:
    kept = np.ones(len(scene.boxes), bool)
    if step.by_box:
        kept &= ((scene.boxes[:, 2:] - scene.boxes[:, :2]) > step.min_gt_bbox_wh).all(axis=1)
    if step.by_mask and scene.masks is not None:
        kept &= scene.masks.sum(axis=(1, 2)) >= step.min_gt_mask_area
    return None if len(kept) and not kept.any() and step.keep_empty else keep(scene, kept)


@apply.register
def _(step: RandomChoice, scene: Scene, rng: np.random.Generator) -> Scene | None:
    return run(step.transforms[int(rng.choice(len(step.transforms), p=step.prob))], scene, rng)
