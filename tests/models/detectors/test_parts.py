"""Backbones, pyramids and layers of detectors against live MMDetection and PyTorch, and their initial values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx

from converters import load_pretrained, to_torch
from converters.report import difference
from converters.verify import comes_back, precision, widened
from converters.verify_reference import perturb
from jaxft.models import create_model
from jaxft.models.detectors.backbones.pyramid import Pyramid
from jaxft.models.detectors.backbones.resnet import ResNet
from jaxft.models.detectors.dense.fcos_head import FCOSHead
from jaxft.models.detectors.dense.gfl_head import GFLHead
from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.dense.rpn_head import RPNHead
from jaxft.models.detectors.necks.fpn import FPN
from jaxft.models.detectors.necks.hrfpn import HRFPN
from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from jaxft.models.detectors.types import Norm
from jaxft.models.layers import BatchNorm, ConvTranspose, FrozenBatchNorm, GroupNorm
from jaxft.models.paths import filled, values
from jaxft.models.streams import QUICK
from tests import mmdet_live

with mmdet_live.quiet():
    from mmdet.registry import MODELS

BACKBONES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "caffe": ({"depth": 50, "style": "caffe", "num_stages": 3, "out_indices": (1, 2)}, {}),
    "v1d": ({"type": "ResNetV1d", "depth": 18}, {"deep_stem": True, "avg_down": True, "type": None}),
    "group_norm": (
        {"depth": 50, "num_stages": 2, "out_indices": (0, 1), "norm_cfg": {"type": "GN", "num_groups": 4}},
        {"norm_cfg": Norm("GN", 4)},
    ),
    "dilated": ({"depth": 18, "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "out_indices": (3,)}, {}),
    "resnext": (
        {"type": "ResNeXt", "depth": 50, "groups": 4, "base_width": 4, "num_stages": 2, "out_indices": (0, 1)},
        {"type": None},
    ),
}
MAPS = {8: 24, 16: 12, 32: 6}


def run(ours: Any, x: Any) -> Any:
    """A compiled call in evaluation mode."""
    ours.eval()
    return jax.jit(lambda arrays, x: filled(ours, arrays)(x), compiler_options=QUICK)(values(ours), x)


def same(theirs: torch.nn.Module, build: Callable[[nnx.Rngs], Any], inputs: list[np.ndarray]) -> None:
    """The same weights and images through both, in float64, and back with strict=True."""
    theirs.eval()
    with torch.no_grad():
        perturb(theirs, 0)
        theirs.double()
        tensors = [torch.from_numpy(x).permute(0, 3, 1, 2).double().contiguous() for x in inputs]
        wanted = theirs(tensors[0] if len(tensors) == 1 else tensors)
    with precision("float64"):
        ours = build(nnx.Rngs(0))
        load_pretrained(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
        ours = widened(ours, "float64")
        assert comes_back(theirs, to_torch(ours))
        arrays = [jnp.asarray(x, jnp.float64) for x in inputs]
        found = run(ours, arrays[0] if len(arrays) == 1 else arrays)
    found, wanted = (list(x) if isinstance(x, tuple) else [x] for x in (found, wanted))
    assert len(found) == len(wanted)
    for x, y in zip(found, wanted, strict=True):
        assert difference(x, y.permute(0, 2, 3, 1).numpy()) < 1e-9


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_mmdetections(name: str) -> None:
    theirs, changes = BACKBONES[name]
    stages = theirs.get("num_stages", 4)
    short = {"strides": (1, 2, 2, 2)[:stages], "dilations": (1, 1, 1, 1)[:stages]}
    options = {"base_channels": 8, **short, **theirs} if name != "resnext" else {**short, **theirs}
    with mmdet_live.quiet():
        module = MODELS.build({"type": "ResNet", **options})
    settings = {key: value for key, value in (options | changes).items() if key not in ("depth", "type")}
    image = np.random.default_rng(0).normal(size=(1, 75, 90, 3))
    same(module, lambda rngs: ResNet(options["depth"], **settings, rngs=rngs), [image])


@pytest.mark.parametrize(
    "options",
    [
        {"num_outs": 5},
        {"num_outs": 4, "start_level": 1, "add_extra_convs": True},
        {"num_outs": 5, "add_extra_convs": "on_lateral", "relu_before_extra_convs": True},
        {"num_outs": 5, "add_extra_convs": "on_output", "relu_before_extra_convs": True, "norm": "GN"},
        {"num_outs": 2, "end_level": 1, "norm": "BN", "no_norm_on_lateral": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_pyramid_is_mmdetections(options: dict[str, Any]) -> None:
    options = dict(options)
    norm = options.pop("norm", None)
    theirs = {None: None, "GN": {"type": "GN", "num_groups": 4}, "BN": {"type": "BN"}}[norm]
    with mmdet_live.quiet():
        module = MODELS.build(
            {"type": "FPN", "in_channels": list(MAPS), "out_channels": 8, "norm_cfg": theirs, **options}
        )
    random = np.random.default_rng(0)
    # Sides that are odd, so that a map is not the double of the next.
    maps = [random.normal(size=(1, size + 1, size + 3, channels)) for channels, size in MAPS.items()]
    ours = None if norm is None else Norm(norm, 4)
    same(module, lambda rngs: FPN(list(MAPS), 8, norm_cfg=ours, **options, rngs=rngs), maps)


def test_layers_are_pytorchs() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 8))
    same(torch.nn.GroupNorm(4, 8), lambda _: GroupNorm(4, 8), [x])
    same(torch.nn.ConvTranspose2d(8, 3, 2, 2), lambda rngs: ConvTranspose(8, 3, 2, rngs=rngs), [x])
    frozen = torchvision.ops.FrozenBatchNorm2d(8)
    for buffer in frozen.buffers():
        buffer.copy_(torch.rand(8) + 0.5)
    same(frozen, lambda _: FrozenBatchNorm(8), [x])


def test_padding_has_no_part_in_batch_norm() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 3, 4)), jnp.float32)
    used = jnp.array([True, False, True, True, False])
    alone, padded, nothing = BatchNorm(4), BatchNorm(4), BatchNorm(4)
    wanted = alone(x[used])
    np.testing.assert_allclose(padded(x, used)[used], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(padded.mean[...], alone.mean[...], rtol=1e-5)
    np.testing.assert_allclose(padded.var[...], alone.var[...], rtol=1e-5)
    assert np.isfinite(nothing(x, used & False)).all()
    np.testing.assert_array_equal(nothing.var[...], 1)


def test_a_classifier_becomes_a_pyramid() -> None:
    outputs = ("_blocks.4", "_blocks.10", "_blocks.15")
    classifier: Any = create_model("efficientnet_lite0", 10)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 96, 3)), jnp.float32)
    classifier.eval()
    stages = jax.jit(lambda x: classifier.stages(x), compiler_options=QUICK)(image)
    kept = {path for path in values(classifier) if not path.startswith(("_fc.", "_conv_head.", "_bn1."))}
    pyramid = Pyramid(create_model("efficientnet_lite0", 10), outputs)
    assert values(pyramid).keys() == kept
    load_pretrained(pyramid, to_torch(classifier), skip=("_fc", "_conv_head", "_bn1"))
    maps = run(pyramid, image)
    assert [x.shape for x in maps] == [(1, 8, 12, 40), (1, 4, 6, 112), (1, 2, 3, 320)]
    for name, x in zip(outputs, maps, strict=True):
        assert difference(x, np.asarray(stages[name])) < 1e-5


def statistics(tensors: Any) -> dict[str, tuple[float, float, float]]:
    """Mean, deviation and largest magnitude of each tensor."""
    return {key: (float(x.mean()), float(np.std(x)), float(np.abs(x).max())) for key, x in tensors.items()}


HEADS: dict[str, tuple[dict[str, Any], Callable[[nnx.Rngs], nnx.Module]]] = {
    "rpn": ({"type": "RPNHead", "in_channels": 32}, lambda rngs: RPNHead(32, rngs=rngs)),
    "retina": (
        {"type": "RetinaHead", "num_classes": 20, "in_channels": 32},
        lambda rngs: RetinaHead(20, 32, rngs=rngs),
    ),
    "fcos": (
        {"type": "FCOSHead", "num_classes": 20, "in_channels": 32},
        lambda rngs: FCOSHead(20, 32, strides=(4, 8, 16, 32, 64), rngs=rngs),
    ),
    "gfl": (
        {
            "type": "GFLHead",
            "num_classes": 20,
            "in_channels": 32,
            "anchor_generator": {"type": "AnchorGenerator", "ratios": [1.0], "scales": [8], "strides": [8] * 5},
            "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True},
        },
        lambda rngs: GFLHead(20, 32, rngs=rngs),
    ),
    "boxes": (
        {"type": "Shared2FCBBoxHead", "in_channels": 16, "num_classes": 20},
        lambda rngs: ConvFCBBoxHead(16, 20, num_shared_fcs=2, rngs=rngs),
    ),
    "masks": ({"type": "FCNMaskHead", "num_classes": 20}, lambda rngs: FCNMaskHead(256, 20, rngs=rngs)),
    "fpn": (
        {"type": "FPN", "in_channels": [64, 128], "out_channels": 64, "num_outs": 3},
        lambda rngs: FPN([64, 128], 64, 3, rngs=rngs),
    ),
    "hrfpn": (
        {"type": "HRFPN", "in_channels": [16, 32], "out_channels": 32, "num_outs": 2},
        lambda rngs: HRFPN([16, 32], 32, num_outs=2, rngs=rngs),
    ),
    "resnet": (
        {"type": "ResNet", "depth": 18, "num_stages": 2, "strides": (1, 2), "dilations": (1, 1), "out_indices": (1,)},
        lambda rngs: ResNet(18, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,), rngs=rngs),
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_initial_values_are_mmdetections(name: str) -> None:
    settings, build = HEADS[name]
    torch.manual_seed(0)
    with mmdet_live.quiet():
        module = MODELS.build(settings)
        module.init_weights()
    theirs = statistics({key: x.numpy() for key, x in module.state_dict().items() if x.is_floating_point()})
    drawn = jax.jit(lambda: values(build(nnx.Rngs(0))), compiler_options=QUICK)()
    arrays = to_torch(filled(nnx.eval_shape(lambda: build(nnx.Rngs(0))), drawn))
    ours = statistics({key: x for key, x in arrays.items() if np.issubdtype(x.dtype, np.floating)})
    assert ours.keys() == theirs.keys()
    for key, (mean, deviation, largest) in theirs.items():
        count = arrays[key].size
        error = 6 / np.sqrt(count) if count > 1 else 0
        assert abs(ours[key][0] - mean) <= error * deviation + 1e-6, key
        assert abs(ours[key][1] - deviation) <= error * deviation + 1e-6, key
        if deviation == 0 or abs(largest / deviation - np.sqrt(3)) < 0.05:  # constants; uniform
            assert abs(ours[key][2] - largest) <= 0.1 * largest, key
