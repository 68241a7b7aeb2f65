"""What is found in a photo does not depend on the photos beside it, nor on candidates in the padding around it."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.models.detectors.dense.fcos_head import FCOSHead
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.dense.outputs import DenseOutputs
from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.detectors.types import AnchorGenerator, Detections, Selection
from jaxft.models.paths import filled, values
from jaxft.models.streams import QUICK, initial_rngs
from tests.models.detectors.test_single_stage import retinanet
from tests.models.detectors.test_two_stage import our_standard

STRIDES, CLASSES = (8, 16, 32), 2
TEST = Selection(12, 0.6, nms_pre=40, score_thr=0.05, min_bbox_size=0)
SQUARE = AnchorGenerator(STRIDES, (1.0,), octave_base_scale=4, scales_per_octave=1)
SHAPES = AnchorGenerator(STRIDES, (0.5, 2.0), scales=(4.0,))
THEIRS = AnchorGenerator(None, (1.0,), sizes=((24.0,), (48.0,), (96.0,)), divisor=None)  # torchvision's
RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 1e8))

NARROW: Any = {"feat_channels": 8, "test_cfg": TEST}
PLAIN: Any = NARROW | {"stacked_convs": 1, "norm_cfg": None}

HEADS = {
    "retina": lambda rngs: RetinaHead(CLASSES, 8, anchor_generator=SHAPES, **PLAIN, rngs=rngs),
    "torchvision": lambda rngs: RetinaHead(CLASSES, 8, anchor_generator=THEIRS, **PLAIN, rngs=rngs),
    "rpn": lambda rngs: RPNHead(8, anchor_generator=SHAPES, **NARROW, rngs=rngs),
    "gfl": lambda rngs: GFLHead(CLASSES, 8, anchor_generator=SQUARE, reg_max=4, **PLAIN, rngs=rngs),
    "fcos": lambda rngs: FCOSHead(CLASSES, 8, strides=STRIDES, regress_ranges=RANGES, divisor=16, **PLAIN, rngs=rngs),
}


@pytest.mark.parametrize("name", HEADS)
def test_candidates_in_the_padding_are_none(name: str) -> None:
    """The maps of a photo padded to 64 x 96 on its own, and the same in the corner of larger ones, beside which
    everything is an object."""
    head: Any = HEADS[name](initial_rngs(0))
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(head, [jnp.zeros((1, 64 // stride, 96 // stride, 8)) for stride in STRIDES])
    small, large = [], []
    for kind, maps in zip(shapes._fields, shapes, strict=True):
        small.append([random.normal(size=part.shape).astype(np.float32) for part in maps])
        padded = [
            np.full((1, 128 // stride, 160 // stride, part.shape[-1]), 1.0 if kind == "boxes" else 9.0, np.float32)
            for stride, part in zip(STRIDES, maps, strict=False)  # most heads have no center-ness
        ]
        for whole, part in zip(padded, small[-1], strict=True):
            whole[:, : part.shape[1], : part.shape[2]] = part
        large.append(padded)
    size = jnp.array([[57, 90]])
    found = [
        jax.jit(partial(head.predict, pad_shape=shape), compiler_options=QUICK)(
            DenseOutputs(*(tuple(map(jnp.asarray, part)) for part in maps)), size
        )
        for maps, shape in ((small, (64, 96)), (large, (128, 160)))
    ]
    assert int(found[0].valid.sum()) == TEST.max_per_img
    assert_equal(*found)


def assert_equal(one: Detections, other: Detections, rows: slice = slice(None), tolerance: float = 0.0) -> None:
    for kind, first, second in zip(one._fields, one, other, strict=True):
        if first is not None:
            np.testing.assert_allclose(first[rows], second[rows], rtol=tolerance, atol=tolerance, err_msg=kind)


@pytest.mark.parametrize("build", [retinanet, partial(our_standard, masks=True, convs=0)])
def test_photos_of_a_batch_do_not_see_each_other(build: Any) -> None:
    """The first photo alone, beside another, and beside one full of noise; each time in the same place, so that the
    same sums are added up in the same order and nothing differs, and in another place."""
    model = build(initial_rngs(0))
    model.eval()
    for head in ("bbox_head", "roi_head"):
        if hasattr(model, head):
            getattr(model, head).test_cfg = replace(getattr(model, head).test_cfg, score_thr=0.0)
    run = jax.jit(lambda arrays, x, sizes: filled(model, arrays).predict(x, sizes), compiler_options=QUICK)
    random = np.random.default_rng(0)
    photo, other = np.zeros((2, 128, 160, 3), np.float32)
    photo[:50, :60] = random.normal(size=(50, 60, 3))
    other[:] = 5 * random.normal(size=other.shape)
    one, whole = (50, 60), (128, 160)
    arrays = values(model)
    alone = run(arrays, np.stack([photo, np.zeros_like(photo)]), jnp.array([one, (1, 1)]))
    beside = run(arrays, np.stack([photo, other]), jnp.array([one, whole]))
    behind = run(arrays, np.stack([other, photo]), jnp.array([whole, one]))
    assert int(alone.valid[0].sum()) > 3
    assert int(beside.valid[1].sum()) > 3
    assert_equal(alone, beside, slice(1))
    moved = Detections(*(None if part is None else part[::-1] for part in behind))
    assert_equal(alone, moved, slice(1), 1e-6)
