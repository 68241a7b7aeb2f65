"""Numbers of heads: float32 from what bfloat16 features hold to boxes and losses, and gradients that stay finite."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from jaxft.models.detectors import objectives
from jaxft.models.detectors.dense.atss_head import ATSSHead
from jaxft.models.detectors.dense.fcos_head import FCOSHead
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.dense.outputs import HeightWidth
from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.boxes import box_terms
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from jaxft.models.detectors.roi.regions import Regions
from jaxft.models.detectors.roi.standard_roi_head import ROI_TRAIN
from jaxft.models.detectors.types import (
    AnchorGenerator,
    ATSSAssigner,
    BoxLoss,
    ClassLoss,
    DenseTrain,
    MaxIoUAssigner,
    Selection,
    Targets,
)
from jaxft.models.paths import filled, values
from jaxft.models.streams import QUICK, initial_rngs
from jaxft.training.step import computing

CLASSES, WIDTH, STRIDES = 3, 8, (32, 128)
SIZES = ((25, 42), (7, 11))
PAD_SHAPE: HeightWidth = (800, 1344)
SQUARE = AnchorGenerator(STRIDES, (1.0,), octave_base_scale=4, scales_per_octave=1)
RANGES = ((-1.0, 300.0), (300.0, 1e8))
TEST = Selection(max_per_img=20, iou_threshold=0.99, nms_pre=50, score_thr=0.0)
NARROW: dict[str, Any] = {"stacked_convs": 0, "test_cfg": TEST}
ATSS_TRAIN = DenseTrain(ATSSAssigner(4, ignore_iof_thr=0.5))

HEADS: dict[str, Callable[..., Any]] = {
    "rpn": partial(RPNHead, WIDTH, feat_channels=WIDTH, anchor_generator=SQUARE, test_cfg=TEST),
    "retina": partial(
        RetinaHead,
        CLASSES,
        WIDTH,
        anchor_generator=SQUARE,
        reg_decoded_bbox=True,
        loss_bbox=BoxLoss("ciou"),
        train_cfg=DenseTrain(MaxIoUAssigner(0.5, 0.4, ignore_iof_thr=0.5)),
        **NARROW,
    ),
    "fcos": partial(FCOSHead, CLASSES, WIDTH, strides=STRIDES, regress_ranges=RANGES, **NARROW),
    "fcos_strides": partial(
        FCOSHead,
        CLASSES,
        WIDTH,
        strides=STRIDES,
        regress_ranges=RANGES,
        norm_on_bbox=True,
        loss_bbox=BoxLoss("giou"),
        **NARROW,
    ),
    "atss": partial(ATSSHead, CLASSES, WIDTH, anchor_generator=SQUARE, train_cfg=ATSS_TRAIN, **NARROW),
    "gfl": partial(GFLHead, CLASSES, WIDTH, anchor_generator=SQUARE, train_cfg=ATSS_TRAIN, **NARROW),
}


def built(name: str) -> Any:
    """A head whose kernels are such that boxes are large and scores are spread."""
    head = HEADS[name](rngs=initial_rngs(0))
    random = np.random.default_rng(0)
    drawn = {
        path: random.normal(size=array.shape) * 0.7 / np.sqrt(array[..., 0].size) if path.endswith("kernel") else array
        for path, array in values(head, nnx.Param).items()
    }
    if name.startswith("fcos"):
        drawn["conv_reg.bias"] = np.full(4, 4.6)  # exp(4.6) is 100 pixels; or so many strides
    return filled(head, values(head) | {path: jnp.asarray(array, jnp.float32) for path, array in drawn.items()})


def maps(dtype: Any) -> list[Array]:
    """Features that bfloat16 holds as they are, of one large photo."""
    random = np.random.default_rng(1)
    drawn = (np.abs(random.normal(size=(1, *size, WIDTH))) for size in SIZES)
    return [jnp.asarray(x, jnp.bfloat16).astype(dtype) for x in drawn]


def narrow(head: Any) -> dict[str, Array]:
    """The arrays of a head as bfloat16 arithmetic sees them."""
    return values(computing(head, values(head), "bfloat16"))


def widened(arrays: dict[str, Array]) -> dict[str, Array]:
    return {path: array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array for path, array in arrays.items()}


def found(head: Any, arrays: dict[str, Array], maps: list[Array]) -> tuple[Any, Any]:
    """What a head puts out, and the boxes that it reads from that."""
    model: Any = filled(head, arrays)
    outputs = model(maps)
    return outputs, model.predict(outputs, jnp.asarray([[790, 1333]], jnp.int32), PAD_SHAPE)


@pytest.mark.parametrize("name", ["rpn", "fcos", "fcos_strides", "gfl"])
def test_boxes_under_bfloat16_are_those_of_float32(name: str) -> None:
    """Given the same features and kernels, all that follows their products is float32, for large boxes, too."""
    head = built(name)
    if name == "rpn":  # what lies before its last layers rounds
        head.rpn_conv.kernel[...] = jnp.zeros_like(head.rpn_conv.kernel[...]).at[1, 1].set(jnp.eye(WIDTH))
    arrays, run = narrow(head), jax.jit(partial(found, head), compiler_options=QUICK)
    assert jnp.dtype("bfloat16") in {array.dtype for array in arrays.values()}
    outputs, boxes = run(arrays, maps(jnp.bfloat16))
    wide, expected = run(widened(arrays), maps(jnp.float32))
    for mine, other in zip(jax.tree.leaves(outputs), jax.tree.leaves(wide), strict=True):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    assert expected.valid.sum() == 20
    assert (expected.boxes[..., 2:] - expected.boxes[..., :2]).max() > 200
    np.testing.assert_allclose(boxes.boxes, expected.boxes, rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(boxes.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize("agnostic", [False, True])
def test_heads_of_regions_put_out_float32(agnostic: bool) -> None:
    box_head = ConvFCBBoxHead(WIDTH, CLASSES, num_shared_fcs=int(agnostic), fc_out_channels=8, rngs=initial_rngs(0))
    mask_head = FCNMaskHead(WIDTH, CLASSES, num_convs=0, upsample=None, rngs=initial_rngs(0))
    x, used = jnp.ones((2, 7, 7, WIDTH), jnp.bfloat16), jnp.ones(2, bool)
    for head in (box_head, mask_head):
        model: Any = filled(head, narrow(head))
        assert {leaf.dtype for leaf in jax.tree.leaves(model(x, used))} == {jnp.dtype("float32")}


# Gradients


def targets(kind: str) -> Targets:
    """A small, a large and a third object, a crowd, and a row of padding; or less than that."""
    boxes = np.array([[40, 60, 240, 200], [100, 100, 1100, 700], [600, 300, 900, 560], [700, 20, 1000, 300], [0] * 4])
    valid, ignored = np.array([True, True, True, False, False]), np.array([False, False, False, True, False])
    if kind == "no object":
        valid, ignored = 0 * valid, 0 * ignored
    elif kind == "crowds alone":
        valid, ignored = 0 * valid, valid | ignored
    elif kind == "no area":
        boxes[:, 2:] = boxes[:, :2]
    labels = np.array([0, 1, 2, 0, 0], np.int32)
    rows = (boxes.astype(np.float32), labels, valid.astype(bool), ignored.astype(bool))
    return Targets(*(jnp.asarray(array)[None] for array in rows))


def gradient(head: Any, dtype: str) -> Callable[[float, Targets], tuple[Any, dict[str, Array]]]:
    """A compiled function of a factor of the features, and targets: gradients by parameters and features, and terms."""

    def loss(params: dict[str, Array], maps: list[Array], factor: Array, targets: Targets) -> Any:
        model: Any = computing(head, rest | params, dtype)
        outputs = model([x * factor.astype(x.dtype) for x in maps])
        terms = model.loss(outputs, jnp.asarray([[790, 1333]], jnp.int32), PAD_SHAPE, targets)
        return sum(terms.values()), terms

    params = values(head, nnx.Param)
    rest = {path: array for path, array in values(head).items() if path not in params}
    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), compiler_options=QUICK)
    return lambda factor, targets: run(params, maps(dtype), jnp.float32(factor), targets)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("name", HEADS)
def test_gradients_of_dense_heads_are_finite(name: str, dtype: str) -> None:
    run = gradient(built(name), dtype)
    for kind in ("objects", "no object", "crowds alone", "no area"):
        for factor in (1.0, -1.0, 1e4, -1e4, 0.0):
            gradients, terms = run(factor, targets(kind))
            assert {leaf.dtype for leaf in terms.values()} == {jnp.dtype("float32")}
            for leaf in jax.tree.leaves((gradients, terms)):
                assert jnp.isfinite(leaf).all(), (kind, factor)
    assert all(leaf.dtype == jnp.float32 for leaf in gradients[0].values())


@pytest.mark.parametrize("decoded", [False, True])
def test_gradients_of_regions_are_finite(decoded: bool) -> None:
    """An object without area is a region of its own; rows of padding have no part at all, whatever is in them."""
    head = ConvFCBBoxHead(
        WIDTH,
        CLASSES,
        num_shared_fcs=1,
        fc_out_channels=8,
        reg_decoded_bbox=decoded,
        loss_bbox=BoxLoss("ciou" if decoded else "smooth_l1"),
        rngs=initial_rngs(0),
    )
    objects = targets("no area")
    boxes = jnp.concatenate([objects.boxes[:, :2], jnp.asarray([[[5, 5, 60, 40], [0, 0, 0, 0], [0, 0, 1, 1.0]]])], 1)
    positive, negative = jnp.asarray([[1, 1, 0, 0, 0]], bool), jnp.asarray([[0, 0, 1, 0, 0]], bool)
    labels = jnp.asarray([[0, 1, 3, 3, 3]], jnp.int32)
    regions = Regions(boxes, positive, negative, jnp.asarray([[0, 1, 0, 0, 0]], jnp.int32), positive, labels)

    @partial(jax.jit, compiler_options=QUICK)
    @jax.grad
    def gradient(outputs: tuple[Array, Array]) -> Array:
        terms = box_terms(head, ROI_TRAIN, regions, *outputs, objects)
        return terms["loss_cls"] + terms["loss_bbox"]

    for factor in (0.0, 1.0, 1e4, -1e4):
        random = np.random.default_rng(0)
        logits, codes = (jnp.asarray(random.normal(size=shape) * factor, jnp.float32) for shape in ((5, 4), (5, 3, 4)))
        rest = (logits.at[3:].set(jnp.inf), codes.at[3:].set(jnp.nan))
        for outputs in ((logits, codes), rest):
            found = gradient(outputs)
            assert all(jnp.isfinite(leaf).all() for leaf in found)
            assert all((leaf[3:] == 0).all() for leaf in found)


BAD = (np.nan, np.inf, -np.inf)


@pytest.mark.parametrize("kind", ["l1", "smooth_l1", "iou", "giou", "diou", "ciou"])
def test_rows_without_a_weight_have_no_gradient(kind: Any) -> None:
    truth = jnp.asarray([[10, 10, 50, 40.0]] * 4)
    predicted = jnp.concatenate([truth[:1] + 3, jnp.asarray([[bad] * 4 for bad in BAD])])
    weights, one = jnp.asarray([2.0, 0, 0, 0]), jnp.ones(())

    def term(predicted: Array, loss: BoxLoss) -> Array:
        return objectives.box_term(loss, predicted, truth, weights, one)

    value, found = jax.value_and_grad(term)(predicted, BoxLoss(kind))
    assert jnp.isfinite(value)
    assert (found[0] != 0).any()
    assert (found[1:] == 0).all()
    # A term of weight 0 is nothing even where its rows count.
    value, found = jax.value_and_grad(term)(predicted.at[0].set(jnp.nan), BoxLoss(kind, loss_weight=0))
    assert value == 0
    assert (found == 0).all()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "focal"])
def test_classes_without_a_weight_have_no_gradient(kind: Any) -> None:
    logits = jnp.asarray([[0.5, -1.0], *([bad, 0] for bad in BAD)])
    weights, labels = jnp.asarray([2.0, 0, 0, 0]), jnp.asarray([0, 1, 0, 1])

    def term(logits: Array, loss: ClassLoss) -> Array:
        return objectives.class_term(loss, logits, labels, weights, jnp.ones(()))

    value, found = jax.value_and_grad(term)(logits, ClassLoss(kind))
    assert jnp.isfinite(value)
    assert (found[0] != 0).all()
    assert (found[1:] == 0).all()
    value, found = jax.value_and_grad(term)(logits.at[0].set(jnp.nan), ClassLoss(kind, loss_weight=0))
    assert value == 0
    assert (found == 0).all()
