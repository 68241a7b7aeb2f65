"""Two detectors of two stages, which judge the boxes that the teacher proposes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from torch.nn import functional

from jaxft.config import Detection, Distillation
from jaxft.errors import UserError
from jaxft.models import abstract_model
from jaxft.models.detectors.detector import TwoStage, dense_outputs
from jaxft.models.detectors.roi.judging import ClassLogits
from jaxft.models.detectors.roi.regions import extract
from jaxft.models.detectors.types import ClassLoss, Selection, Targets
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import filled, modules, values
from jaxft.models.streams import QUICK, initial_rngs
from jaxft.tasks.detection.task import DetectionTask
from jaxft.tasks.detection.teaching import box_distance, inside, taught_classes, two_stage_distance
from jaxft.training.step import Teaching, reseed
from jaxft.training.teaching import Teacher, taught
from tests.models.detectors.narrow import cascade_rcnn, mask_rcnn, retinanet

PAD, SIZES, T = (64, 64), np.array([(64, 60), (40, 64), (64, 64), (30, 50)], np.int32), 3.0
IMAGES = (
    np.random.default_rng(0).normal(size=(len(SIZES), *PAD, 3))
    * np.asarray(inside(PAD, PAD, jnp.asarray(SIZES)))[..., None]
)
SOFTMAX = ClassLoss("softmax")
Arrays = dict[str, Any]


def targets() -> Targets:
    """An object in the first photo."""
    rows = len(SIZES), 1
    boxes = np.tile(np.array([4, 6, 40, 44], np.float32), (*rows, 1))
    valid = np.arange(len(SIZES))[:, None] == 0
    packed = np.zeros((*rows, PAD[0], PAD[1] // 8), np.uint8)
    return Targets(*map(jnp.asarray, (boxes, np.zeros(rows, np.int32), valid, np.zeros(rows, bool))), packed)


def abstract(build: Any) -> Any:
    """A detector of shapes, in evaluation, whose proposals are few."""
    model = nnx.eval_shape(lambda: build(initial_rngs(0)))
    model.eval()
    if isinstance(model, TwoStage):
        model.rpn_head.test_cfg = Selection(20, 0.1, nms_pre=40, min_bbox_size=12)
    return model


def drawn(model: Any, seed: int) -> Arrays:
    """Arrays of such a detector in float64, with which its outputs are no small numbers."""
    random, found = np.random.default_rng(seed), {}
    for path, leaf in values(model).items():
        if path.endswith("kernel"):
            last = path.rpartition(".")[0].endswith(("fc_cls", "rpn_cls"))
            found[path] = random.normal(0, 1 if last else np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        else:
            found[path] = np.full(leaf.shape, float(path.endswith(("scale", "var"))))
    return found


def response(template: Any, own: Arrays, other: Arrays, temperature: Any, images: Any = IMAGES) -> Any:
    """How far the classes are from the teacher's, as a run computes it beside its loss."""
    student, teacher = filled(template, own), filled(template, other)
    maps = student.feature_maps(jnp.asarray(images))
    given = maps, dense_outputs(student.rpn_head, maps), jnp.asarray(images), jnp.asarray(SIZES)
    return two_stage_distance(student, teacher, *given, jnp.asarray(temperature))


def divergence(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of softmaxes of rows over `T`."""
    return T * T * functional.kl_div((own / T).log_softmax(-1), (other / T).softmax(-1), reduction="none").sum(-1)


def outcomes(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The divergence of a sigmoid each over `T`."""
    wanted = (other / T).sigmoid()
    crosses = [functional.binary_cross_entropy_with_logits(x / T, wanted, reduction="none") for x in (own, other)]
    return T * T * (crosses[0] - crosses[1])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_boxes_are_compared_as_in_pytorch_and_padding_has_no_part(kind: Any) -> None:
    """Two stages; what lies in padding may be anything, also in the gradient."""
    random = np.random.default_rng(1)
    valid = random.random((2, 7)) < 0.6
    arrays = random.normal(0, 4, (2, 2, 2, 7, 4))  # stage, detector
    arrays[0, 0][~valid] = np.inf
    with jax.enable_x64(True):

        def far(own: list[Any]) -> Any:
            stages = [
                tuple(ClassLogits(ClassLoss(kind), x) for x in side) for side in (own, list(jnp.asarray(arrays[:, 1])))
            ]
            return box_distance(*stages, jnp.asarray(valid), jnp.asarray(T))

        value, gradients = jax.value_and_grad(far)(list(jnp.asarray(arrays[:, 0])))
    own = [torch.tensor(stage[0], requires_grad=True) for stage in arrays]
    function = divergence if kind == "softmax" else lambda *pair: outcomes(*pair).mean(-1)
    pairs = [(x[torch.tensor(valid)], torch.tensor(stage[1][valid])) for x, stage in zip(own, arrays, strict=True)]
    expected = torch.cat([function(*pair) for pair in pairs]).mean()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-9)
    for found, leaf in zip(gradients, own, strict=True):
        np.testing.assert_allclose(found, leaf.grad, rtol=1e-9, atol=1e-15)
    nothing = box_distance(*[(ClassLogits(SOFTMAX, jnp.ones((1, 3, 4))),)] * 2, jnp.zeros((1, 3), bool), jnp.asarray(T))
    assert float(nothing) == 0


class Detectors(NamedTuple):
    """A cascade, its arrays and its teacher's, and the program for their distance and its gradient: on all devices,
    each of which has images of its own."""

    template: TwoStage
    own: Arrays
    other: Arrays
    program: Callable[..., Any]


@pytest.fixture(scope="module")
def detectors() -> Detectors:
    template = abstract(cascade_rcnn)
    own, other = (drawn(template, seed) for seed in (0, 1))

    def distance(own: Arrays, other: Arrays, temperature: Any, images: Any) -> Any:
        return jax.value_and_grad(lambda arrays: response(template, arrays, other, temperature, images))(own)

    with jax.enable_x64(True):
        mesh = Mesh(np.array(jax.devices()[: len(IMAGES)]), ("data",))
        split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

        def placed(own: Arrays, other: Arrays, temperature: float, images: Any = IMAGES) -> Any:
            return (*jax.device_put((own, other, temperature), whole), jax.device_put(images, split))

        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            program = jax.jit(distance).lower(*placed(own, other, T)).compile(QUICK)
    return Detectors(template, own, other, lambda *given: program(*placed(*given)))


def test_value_and_gradient_are_those_of_the_heads_logits(detectors: Detectors) -> None:
    """The formula in PyTorch from the logits of heads and RPNs on one device, and its gradient led back through these
    alone."""
    template, own, other, program = detectors
    with jax.enable_x64(True):
        boxes, valid = jax.jit(lambda arrays: proposed(template, arrays), compiler_options=QUICK)(other)
        assert 3 < int(valid.sum()) < valid.size
        outs = jax.jit(lambda arrays: seen(template, arrays, boxes, valid), compiler_options=QUICK)
        theirs = outs(other)
        value, gradients = program(own, other, T)
        ours, back = jax.vjp(outs, own)
        leaves = [torch.tensor(np.asarray(x), requires_grad=True) for x in ours]
        expected = formula(leaves, [torch.tensor(np.asarray(x)) for x in theirs], torch.tensor(np.asarray(valid)))
        expected.backward()
        (wanted,) = back([jnp.asarray(leaf.grad.numpy()) for leaf in leaves])
    np.testing.assert_allclose(value, expected.item(), rtol=1e-9)
    assert float(value) > 0.1
    for path, gradient in wanted.items():
        np.testing.assert_allclose(gradients[path], gradient, rtol=1e-9, atol=1e-12, err_msg=path)
    assert np.abs(gradients["roi_head.bbox_head.1.fc_cls.kernel"]).max() > 1e-3


def test_equal_detectors_are_at_0_and_a_temperature_is_an_input(detectors: Detectors) -> None:
    _, own, other, program = detectors
    with jax.enable_x64(True):
        found = [float(program(own, other, temperature)[0]) for temperature in (T, 2 * T)]
        same, nothing = program(own, own, T)
    assert found[0] != found[1]
    assert float(same) == pytest.approx(0, abs=1e-12)
    assert max(float(np.abs(array).max()) for array in nothing.values()) < 1e-12


def proposed(template: Any, arrays: Arrays) -> tuple[Any, Any]:
    """The teacher's proposals."""
    model, sizes = filled(template, arrays), jnp.asarray(SIZES)
    found = model.rpn_head.predict(model.rpn_head(model.feature_maps(jnp.asarray(IMAGES))), sizes, PAD)
    return found.boxes, found.valid


def seen(template: Any, arrays: Arrays, boxes: Any, valid: Any) -> list[Any]:
    """The RPN's maps, and the logits of each stage."""
    model = filled(template, arrays)
    maps = model.feature_maps(jnp.asarray(IMAGES))
    features = extract(model.roi_head.bbox_roi_extractor, maps, boxes, valid)
    logits = [head(features, valid.reshape(-1))[0] for head in model.roi_head.bbox_head]
    return [*dense_outputs(model.rpn_head, maps).scores, *(x.reshape(*valid.shape, -1) for x in logits)]


def formula(own: list[torch.Tensor], other: list[torch.Tensor], valid: torch.Tensor) -> torch.Tensor:
    """The mean over places in the photos, and the mean over boxes and stages."""
    places = []
    for one, two in zip(own[:-2], other[:-2], strict=True):
        stride = PAD[0] // one.shape[1]
        for row, (height, width) in enumerate(SIZES.tolist()):
            cells = row, slice(-(-height // stride)), slice(-(-width // stride))
            places.append(outcomes(one[cells], two[cells]).mean(-1).flatten())
    boxes = [divergence(one[valid], two[valid]) for one, two in zip(own[-2:], other[-2:], strict=True)]
    return torch.cat(places).mean() + torch.cat(boxes).mean()


def test_statistics_of_the_second_stage_are_those_of_its_loss() -> None:
    """torchvision's second version, abstract: its heads have BatchNorm, which the teacher's boxes leave alone."""
    model: Any = abstract_model("fasterrcnn_resnet50_fpn_v2", 3)
    model.train()
    maps = [jax.ShapeDtypeStruct((1, side, side, 256), jnp.float32) for side in (16, 8, 4, 2, 1)]

    def judged(arrays: Arrays, maps: Any, boxes: Any, valid: Any) -> Any:
        student: Any = filled(model, arrays)
        before = [norm.mean[...] for _, norm in modules(student.roi_head) if isinstance(norm, BatchNorm)]
        (found,) = student.roi_head.class_logits(maps, boxes, valid)
        after = [norm.mean[...] for _, norm in modules(student.roi_head) if isinstance(norm, BatchNorm)]
        assert before
        assert all(one is two for one, two in zip(before, after, strict=True))
        return found.logits

    boxes = jax.ShapeDtypeStruct((1, 5, 4), jnp.float32), jax.ShapeDtypeStruct((1, 5), jnp.bool)
    assert jax.eval_shape(judged, values(model), maps, *boxes).shape == (1, 5, 4)


def test_another_structure_is_refused() -> None:
    """What fits gives all terms of the detector's own loss, and one number."""
    images = jax.ShapeDtypeStruct(IMAGES.shape, jnp.float32)

    def compared(images: Any, model: Any, teacher: Any) -> Any:
        return taught_classes(model, teacher, images, jnp.asarray(SIZES), targets(), jnp.asarray(T))

    terms, found = nnx.eval_shape(compared, images, abstract(mask_rcnn), abstract(mask_rcnn))
    assert terms.keys() == {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "acc", "loss_mask"}
    assert found.shape == ()
    with pytest.raises(UserError, match="The model is a TwoStage and the teacher a SingleStage, whose classes are not"):
        nnx.eval_shape(compared, images, abstract(mask_rcnn), abstract(retinanet))
    other = abstract(mask_rcnn)
    taller = replace(other.rpn_head.settings.anchor_generator, ratios=(3.0, 4.0, 5.0))
    other.rpn_head.settings = replace(other.rpn_head.settings, anchor_generator=taller)
    with pytest.raises(UserError, match=r"ratios=\(3.0, 4.0, 5.0\).* so that their classes are of other boxes"):
        nnx.eval_shape(compared, images, abstract(mask_rcnn), other)
    valid, one = jnp.ones((1, 3), bool), ClassLogits(SOFTMAX, jnp.ones((1, 3, 4)))
    with pytest.raises(UserError, match="heads and class logits 1 of 4, and the teacher's 2 of 4, which cannot be"):
        box_distance((one,), (one, one), valid, jnp.asarray(T))


def test_a_layer_of_the_second_stage_is_refused_as_a_feature() -> None:
    """The student's own loss looks at other boxes first."""
    path = "roi_head.bbox_head.shared_fcs.0"
    teacher = Teacher(Distillation(teacher="run://old"), abstract(mask_rcnn), (((path, 0), (path, 0)),))
    loss = taught(DetectionTask(Detection(masks=True)), teacher, precision="float32", gathered=dict)
    found = targets()
    batch = {
        "image": jnp.asarray(IMAGES).astype(jnp.uint8),
        "size": jnp.asarray(SIZES),
        **{"boxes": found.boxes, "label": found.labels, "valid": found.valid},
        **{"ignored": found.ignored, "masks": found.masks},
    }
    numbers = {"temperature": T, "weight": 1.0, "task_weight": 1.0, "features": (1.0,)}

    def total(arrays: Arrays, theirs: Arrays) -> Any:
        student = filled(abstract(mask_rcnn), arrays)
        reseed(student, jax.random.key(0))
        return loss(student, batch, Teaching(theirs, numbers))[0]

    with pytest.raises(UserError, match=r"fcs.0, called 2 x in training, with the teacher's .*, called 1 x, so"):
        jax.eval_shape(total, *[values(abstract(mask_rcnn))] * 2)
