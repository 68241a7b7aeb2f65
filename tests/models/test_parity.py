"""Whole models against live PyTorch; the full ones by hand, `pytest -m zoo`."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained
from converters.verify import Report, compare, perturb, precision, verify
from jaxft.models import class_layers, list_models, materialise
from jaxft.models.alexnet import AlexNet
from jaxft.models.densenet import DenseNet
from jaxft.models.efficientnet_lite import EfficientNetLite
from jaxft.models.mnasnet import MNASNet
from jaxft.models.mobilenet_v2 import MobileNetV2
from jaxft.models.mobilenet_v3 import Block, MobileNetV3, hard_swish
from jaxft.models.resnet import BasicBlock, Bottleneck, ResNet
from jaxft.models.squeezenet import squeezenet1_0
from jaxft.models.vgg import VGG
from jaxft.models.vit import VisionTransformer

torch = pytest.importorskip("torch")
resnet = pytest.importorskip("torchvision.models.resnet")
vgg = pytest.importorskip("torchvision.models.vgg")
models = pytest.importorskip("torchvision.models")

CLASSES = 5


def shallow_lite() -> Any:
    lite = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    changes = {"drop_connect_rate": 0.0, "image_size": None, "depth_coefficient": 0.3}
    return lite.from_name("efficientnet-lite0", num_classes=CLASSES, **changes)


@contextmanager
def linear(sizes: Mapping[int, int]) -> Iterator[None]:
    """Within it, PyTorch's linear layers have other sizes than they are given: sizes[inputs], sizes[outputs]."""

    class Resized(torch.nn.Linear):
        def __init__(self, inputs: int, outputs: int, **rest: Any) -> None:
            super().__init__(sizes.get(inputs, inputs), sizes.get(outputs, outputs), **rest)

    with mock.patch.object(torch.nn, "Linear", Resized):
        yield


def shallow_vgg(batch_norm: bool) -> Any:
    with linear({512 * 49: 16 * 49, 4096: 32}):
        return vgg.VGG(vgg.make_layers([8, "M", 16, "M"], batch_norm), CLASSES)


def narrow_alexnet() -> Any:
    with linear({4096: 32}):
        return models.AlexNet(CLASSES)


STACKS = ((24, 3, 2, 3, 1), (40, 5, 2, 3, 2))


def shallow_mnasnet() -> Any:
    # Of few classes the first logits are in the tens, and the rounding of those is large in the gradients.
    theirs = models.MNASNet(0.25, 40 * CLASSES)
    head = torch.nn.Conv2d(16, 1280, 1, bias=False)
    torch.nn.init.kaiming_normal_(head.weight, mode="fan_out")
    stem, first, second, last = theirs.layers[:8], theirs.layers[8][:1], theirs.layers[9][:2], theirs.layers[15:]
    theirs.layers = torch.nn.Sequential(*stem, first, second, head, *last)
    return theirs


# (kernel, width inside, channels out, squeeze-and-excitation, hard swish, stride)
ROWS = (
    Block(3, 16, 16, True, nnx.relu, 2),
    Block(5, 48, 24, True, hard_swish, 2),
    Block(3, 72, 24, False, hard_swish, 1),
)


def shallow_mobilenet_v3() -> Any:
    row = models.mobilenetv3.InvertedResidualConfig
    rows = [
        row(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        row(16, 5, 48, 24, True, "HS", 2, 1, 1.0),
        row(24, 3, 72, 24, False, "HS", 1, 1, 1.0),
    ]
    return models.MobileNetV3(rows, 64, CLASSES)


class Pair(NamedTuple):
    """One architecture, small, on both sides."""

    ours: Callable[[int], nnx.Module]
    theirs: Callable[[], Any]
    size: int = 64


# (expansion, channels, repeats, stride)
INVERTED = ((1, 32, 1, 1), (6, 64, 2, 2), (6, 96, 1, 1))

SHALLOW = {
    "basic": Pair(
        lambda n: ResNet(BasicBlock, (1, 1, 1, 1), n, rngs=nnx.Rngs(0)),
        lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], CLASSES),
    ),
    "grouped": Pair(
        lambda n: ResNet(Bottleneck, (1, 1, 1, 1), n, groups=32, width_per_group=4, rngs=nnx.Rngs(0)),
        lambda: resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], CLASSES, groups=32, width_per_group=4),
    ),
    "alexnet": Pair(
        lambda n: AlexNet(n, hidden=32, rngs=nnx.Rngs(0)),
        narrow_alexnet,
        size=80,
    ),
    "densenet": Pair(
        lambda n: DenseNet(8, (2, 2), 16, n, rngs=nnx.Rngs(0)),
        lambda: models.DenseNet(8, (2, 2), 16, num_classes=CLASSES),
    ),
    "vit": Pair(
        lambda n: VisionTransformer(8, 2, 16, 2, 32, n, image_size=32, rngs=nnx.Rngs(0)),
        lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES),
        size=32,
    ),
    "squeezenet1_0": Pair(
        lambda n: squeezenet1_0(n, rngs=nnx.Rngs(0)),
        lambda: models.squeezenet1_0(num_classes=CLASSES),
        size=48,
    ),
    "vgg": Pair(
        lambda n: VGG((1, 1), n, batch_norm=False, widths=(8, 16), hidden=32, rngs=nnx.Rngs(0)),
        lambda: shallow_vgg(False),
    ),
    "vgg_bn": Pair(
        lambda n: VGG((1, 1), n, batch_norm=True, widths=(8, 16), hidden=32, rngs=nnx.Rngs(0)),
        lambda: shallow_vgg(True),
    ),
    "lite": Pair(
        lambda n: EfficientNetLite(n, width=1.0, depth=0.3, dropout=0.2, drop_path=0.2, rngs=nnx.Rngs(0)),
        shallow_lite,
    ),
    "mnasnet": Pair(
        lambda n: MNASNet(0.25, 40 * n, stacks=STACKS, rngs=nnx.Rngs(0)),
        shallow_mnasnet,
    ),
    "mobilenet_v2": Pair(
        lambda n: MobileNetV2(n, groups=INVERTED, width=0.25, rngs=nnx.Rngs(0)),
        lambda: models.MobileNetV2(CLASSES, 0.25, INVERTED),
    ),
    "mobilenet_v3": Pair(
        lambda n: MobileNetV3(ROWS, 64, n, rngs=nnx.Rngs(0)),
        shallow_mobilenet_v3,
    ),
}


def check(report: Report, dtype: str) -> None:
    """Every figure of a report against the tolerances of its precision."""
    single = dtype == "float32"
    found = {
        **{stage: (value, 1e-5 if single else 1e-9) for stage, value in report.stages.items()},
        "logits": (report.logits, 1e-5 if single else 1e-9),
        "loss": (report.loss, 1e-5 if single else 1e-9),
        f"gradient of {report.gradients[1]}": (report.gradients[0], 1e-4 if single else 1e-9),
        f"statistics {report.statistics[1]}": (report.statistics[0], 1e-5 if single else 1e-9),
        f"three steps, {report.steps[1]}": (report.steps[0], 1e-5 if single else 1e-9),
    }
    print({name: f"{value:.1e}" for name, (value, _) in found.items()}, f"{report.seconds:.0f} s")
    assert {name: value for name, (value, tolerance) in found.items() if not value < tolerance} == {}
    assert report.round_trip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pair", SHALLOW.values(), ids=SHALLOW.keys())
def test_a_shallow_model_is_pytorchs(pair: Pair, dtype: str) -> None:
    torch.manual_seed(0)
    theirs = pair.theirs()
    with torch.no_grad():
        perturb(theirs, 0)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (8, pair.size, pair.size, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, 8).astype(np.int32)
    with precision(dtype):
        ours = nnx.eval_shape(lambda: pair.ours(CLASSES))
        load_pretrained(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
        materialise(ours, lambda: pair.ours(CLASSES))
        heads = class_layers(lambda classes: nnx.eval_shape(lambda: pair.ours(classes)))
        check(compare("shallow", theirs, ours, heads, pixels, labels, dtype, time.perf_counter()), dtype)


@pytest.mark.zoo
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list_models())
def test_a_full_model_is_pytorchs(name: str, dtype: str) -> None:
    try:
        check(verify(name, dtype=dtype), dtype)
    finally:
        jax.clear_caches()
