"""How large steps can make a photo, and the pad shapes that follow."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.errors import UserError
from jaxft.tasks.detection.bounds import LANDSCAPE, PORTRAIT, after, exactly, needed_pad_shapes
from jaxft.tasks.detection.mixtures import CopyPaste, MixUp, Mosaic
from jaxft.tasks.detection.scene import Scene
from jaxft.tasks.detection.steps import apply
from jaxft.tasks.detection.transforms import (
    Expand,
    FilterAnnotations,
    MinIoURandomCrop,
    Pad,
    RandomAffine,
    RandomChoice,
    RandomChoiceResize,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
    YOLOXHSVRandomAug,
)

SIDES = st.integers(1, 90)
SCALES = st.tuples(SIDES, SIDES)
SHARES = st.floats(0.1, 1)
RANGES = st.tuples(st.floats(0.1, 2), st.floats(0.1, 2)).map(lambda pair: (min(pair), max(pair)))
FACTORS = st.floats(0.2, 2)
KEPT = {"keep_ratio": st.booleans(), "rounding": st.sampled_from(["nearest", "down"])}
SIMPLE = st.one_of(
    st.builds(Resize, scale=SCALES, **KEPT),
    st.builds(Resize, scale_factor=st.tuples(FACTORS, FACTORS), **KEPT),
    st.builds(RandomResize, scale=st.tuples(SCALES, SCALES), **KEPT),
    st.builds(RandomResize, scale=SCALES, ratio_range=RANGES, **KEPT),
    st.builds(RandomChoiceResize, scales=st.lists(SCALES, min_size=1, max_size=3).map(tuple), **KEPT),
    st.builds(RandomFlip, prob=st.just(0.5), direction=st.just(("horizontal", "diagonal"))),
    st.builds(RandomCrop, crop_size=SCALES, allow_negative_crop=st.just(True)),
    st.builds(
        RandomCrop,
        crop_size=SCALES.map(lambda pair: (min(pair), max(pair))),
        crop_type=st.just("absolute_range"),
        allow_negative_crop=st.just(True),
    ),
    st.builds(
        RandomCrop,
        crop_size=st.tuples(SHARES, SHARES),
        crop_type=st.sampled_from(["relative", "relative_range"]),
        allow_negative_crop=st.just(True),
    ),
    st.builds(MinIoURandomCrop, min_crop_size=SHARES),
    st.builds(Expand, ratio_range=st.floats(1, 2).map(lambda most: (1, most))),
    st.builds(Pad, size=SCALES),
    st.builds(Pad, size_divisor=st.integers(1, 32)),
    st.builds(Pad, pad_to_square=st.just(True), size_divisor=st.none() | st.integers(1, 32)),
    st.builds(FilterAnnotations),
    st.builds(RandomAffine, border=st.tuples(st.integers(0, 20), st.integers(0, 20))),
    st.builds(YOLOXHSVRandomAug),
)
STEPS = SIMPLE | st.builds(
    RandomChoice, transforms=st.lists(st.lists(SIMPLE, max_size=2).map(tuple), min_size=1, max_size=2).map(tuple)
)


def photo(height: int, width: int) -> Scene:
    nothing = np.zeros(0, np.int32)
    return Scene(np.zeros((height, width, 3), np.uint8), np.zeros((0, 4), np.float32), nothing, nothing.astype(bool))


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=4), SIDES, SIDES, st.integers(0, 2**32))
def test_no_photo_outgrows_the_bound_of_its_steps(listed: list[Any], height: int, width: int, seed: int) -> None:
    kind = LANDSCAPE if height <= width else PORTRAIT
    for draw in range(3):
        one, rng = photo(height, width), np.random.default_rng([seed, draw])
        for count, step in enumerate(listed, 1):
            changed = apply(step, one, rng)
            assert changed is not None
            one = changed
            ratio = one.size[0] / one.size[1]
            for sizes in (after(listed[:count], exactly(height, width)), after(listed[:count], kind)):
                assert sizes.height[0] <= one.size[0] <= sizes.height[1], step
                assert sizes.width[0] <= one.size[1] <= sizes.width[1], step
                assert sizes.ratio[0] * (1 - 1e-9) <= ratio <= sizes.ratio[1] * (1 + 1e-9), step


RESIZE = Resize(scale=(1333, 800), keep_ratio=True)
JITTER = RandomResize(scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True)
CROP = RandomCrop(crop_size=(1024, 1024))


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ((RESIZE, RandomFlip(prob=0.5)), ((800, 1344), (1344, 800))),
        ((RESIZE, RESIZE), ((800, 1344), (1344, 800))),
        ((JITTER, CROP, Pad(size=(1024, 1024))), ((1024, 1024),)),  # large-scale jitter
        ((JITTER, CROP), ((1024, 1024),)),
        ((JITTER, RESIZE), ((800, 1344), (1344, 800))),
        ((Resize(scale=(600, 500)),), ((512, 608),)),
        ((RandomResize(scale=((320, 320), (608, 608)), keep_ratio=True),), ((608, 608),)),
        ((RESIZE, RandomCrop(crop_size=(1000, 600))), ((608, 1024),)),  # holds what is left of portraits, too
        ((RESIZE, Pad(size_divisor=64)), ((832, 1344), (1344, 832))),
        ((RESIZE, Pad(pad_to_square=True)), ((1344, 1344),)),
        ((Mosaic(), RandomAffine(border=(-320, -320)), MixUp(), RESIZE), ((800, 800),)),
        ((Mosaic(img_scale=(600, 400)), RandomFlip(prob=0.5)), ((800, 1216),)),
        ((JITTER, CROP, Pad(size=(1024, 1024)), CopyPaste()), ((1024, 1024),)),
    ],
)
def test_pad_shapes_follow_from_the_whole_list(listed: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    assert needed_pad_shapes(listed, 32) == expected


def test_pad_shapes_follow_from_the_photos_where_steps_leave_their_size_open() -> None:
    listed = (Resize(scale_factor=2.0), RandomFlip(prob=0.5))
    assert needed_pad_shapes(listed, 10, [(30, 40), (20, 50), (40, 31)]) == ((60, 100), (80, 70))
    assert needed_pad_shapes((RandomFlip(prob=0.5),), 10, [(30, 40)]) == ((30, 40),)
    with pytest.raises(UserError, match=r"do not say how large .* --task\.pad-shapes"):
        needed_pad_shapes(listed, 10)
