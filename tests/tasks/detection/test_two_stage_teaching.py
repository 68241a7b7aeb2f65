"""Two detectors of two stages, which judge the boxes that the teacher proposes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from torch.nn import functional

from jaxft.errors import UserError
from jaxft.models import abstract_model
from jaxft.models.detectors.detector import SingleStage, TwoStage, dense_outputs
from jaxft.models.detectors.roi.judging import ClassLogits
from jaxft.models.detectors.roi.regions import extract
from jaxft.models.detectors.types import ClassLoss, Selection, Targets
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import filled, modules, values
from jaxft.models.streams import QUICK, initial_rngs
from jaxft.tasks.detection.teaching import box_distance, inside, taught_classes
from tests.models.detectors.narrow import cascade_rcnn, mask_rcnn, retinanet

PAD, SIZES, T = (64, 64), np.array([(64, 60), (40, 64), (64, 64), (30, 50)], np.int32), 3.0
IMAGES = (
    np.random.default_rng(0).normal(size=(len(SIZES), *PAD, 3))
    * np.asarray(inside(PAD, PAD, jnp.asarray(SIZES)))[..., None]
)
SOFTMAX = ClassLoss("softmax")
Arrays = dict[str, Any]


def targets(masks: bool) -> Targets:
    """An object in the first photo."""
    rows = len(SIZES), 1
    boxes = np.tile(np.array([4, 6, 40, 44], np.float32), (*rows, 1))
    valid = np.arange(len(SIZES))[:, None] == 0
    packed = np.zeros((*rows, PAD[0], PAD[1] // 8), np.uint8) if masks else None
    return Targets(*map(jnp.asarray, (boxes, np.zeros(rows, np.int32), valid, np.zeros(rows, bool))), packed)


def model_of(build: Any, seed: int) -> TwoStage:
    """A detector in evaluation whose outputs are no small numbers, and whose proposals are few."""
    model: TwoStage = build(initial_rngs(seed))
    model.rpn_head.test_cfg = Selection(20, 0.1, nms_pre=40, min_bbox_size=12)
    model.eval()
    random = np.random.default_rng(seed)
    for path, leaf in nnx.iter_graph(model):
        if isinstance(leaf, nnx.Param) and path[-1] == "kernel" and path[-2] in ("fc_cls", "rpn_cls"):
            leaf[...] = jnp.asarray(random.normal(0, 1, leaf.shape), leaf.dtype)
    return model


def response(template: Any, own: Arrays, other: Arrays, temperature: Any, images: Any = IMAGES) -> Any:
    """How far the classes are from the teacher's, as a run computes it."""
    student, teacher = filled(template, own), filled(template, other)
    masks = getattr(template.roi_head, "mask_head", None) is not None
    return taught_classes(
        student, teacher, jnp.asarray(images), jnp.asarray(SIZES), targets(masks), jnp.asarray(temperature)
    )[1]


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


class Detectors:
    """A cascade and a teacher in float64, and the program for their distance and its gradient."""

    def __init__(self) -> None:
        self.template = model_of(cascade_rcnn, 0)
        self.own, self.other = (widened(values(model_of(cascade_rcnn, seed))) for seed in (0, 1))
        self.traced = 0
        self.program = jax.jit(self.distance, compiler_options=QUICK)

    def distance(self, own: Arrays, other: Arrays, temperature: Any, images: Any) -> Any:
        """The value, and the gradient by what trains."""
        self.traced += 1
        trained = {path: array for path, array in own.items() if array.dtype == np.float64}
        return jax.value_and_grad(lambda arrays: response(self.template, own | arrays, other, temperature, images))(
            trained
        )


def widened(arrays: Arrays) -> Arrays:
    return {
        path: np.asarray(array, np.float64) if array.dtype == np.float32 else array for path, array in arrays.items()
    }


@pytest.fixture(scope="module")
def detectors() -> Detectors:
    return Detectors()


def test_value_and_gradient_are_those_of_the_heads_logits(detectors: Detectors) -> None:
    """The formula in PyTorch from the logits of heads and RPNs, and its gradient led back through these alone."""
    template, own, other = detectors.template, detectors.own, detectors.other
    with jax.enable_x64(True):
        boxes, valid = jax.jit(lambda arrays: proposed(template, arrays), compiler_options=QUICK)(other)
        assert 3 < int(valid.sum()) < valid.size
        outs = jax.jit(lambda arrays: seen(template, arrays, boxes, valid), compiler_options=QUICK)
        theirs = outs(other)
        value, gradients = detectors.program(own, other, T, IMAGES)
        ours, back = jax.vjp(lambda arrays: outs(own | arrays), {path: own[path] for path in gradients})
        leaves = [torch.tensor(np.asarray(x), requires_grad=True) for x in ours]
        expected = formula(leaves, [torch.tensor(np.asarray(x)) for x in theirs], torch.tensor(np.asarray(valid)))
        expected.backward()
        (wanted,) = back([jnp.asarray(leaf.grad.numpy()) for leaf in leaves])
    np.testing.assert_allclose(value, expected.item(), rtol=1e-9)
    assert float(value) > 0.1
    for path, gradient in wanted.items():
        np.testing.assert_allclose(gradients[path], gradient, rtol=1e-9, atol=1e-12, err_msg=path)
    assert np.abs(gradients["roi_head.bbox_head.1.fc_cls.kernel"]).max() > 1e-3


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


def test_equal_detectors_are_at_0_and_a_temperature_compiles_nothing(detectors: Detectors) -> None:
    own, other = detectors.own, detectors.other
    with jax.enable_x64(True):
        found = [float(detectors.program(own, other, temperature, IMAGES)[0]) for temperature in (T, 2 * T)]
        same, nothing = detectors.program(own, own, T, IMAGES)
    assert found[0] != found[1]
    assert float(same) == pytest.approx(0, abs=1e-12)
    assert max(float(np.abs(array).max()) for array in nothing.values()) < 1e-12
    assert detectors.traced == 1


def test_devices_agree(detectors: Detectors) -> None:
    """Each has its own images."""
    mesh = Mesh(np.array(jax.devices()[: len(IMAGES)]), ("data",))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    with jax.enable_x64(True):
        expected, gradients = detectors.program(detectors.own, detectors.other, T, IMAGES)
        arguments = (*jax.device_put((detectors.own, detectors.other, T), whole), jax.device_put(IMAGES, split))
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            program = jax.jit(detectors.distance).lower(*arguments).compile(QUICK)
        found, others = program(*arguments)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(others[path], gradient, rtol=1e-9, atol=1e-12, err_msg=path)


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


def abstract(build: Any) -> Any:
    return nnx.eval_shape(lambda: build(initial_rngs(0)))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda rngs: retinanet(rngs), "The model is a TwoStage and the teacher a SingleStage, whose classes are not"),
        (cascade_rcnn, "heads and class logits 1 of 4, and the teacher's 2 of 4, which cannot be compared"),
    ],
)
def test_another_structure_is_refused(teacher: Any, message: str) -> None:
    images = jax.ShapeDtypeStruct(IMAGES.shape, jnp.float32)

    def compared(images: Any, model: Any, teacher: TwoStage | SingleStage) -> Any:
        return taught_classes(model, teacher, images, jnp.asarray(SIZES), targets(masks=True), jnp.asarray(T))[1]

    with pytest.raises(UserError, match=message):
        nnx.eval_shape(compared, images, abstract(mask_rcnn), abstract(teacher))
