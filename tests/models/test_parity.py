"""Whole models against live PyTorch; the full ones by hand, `pytest -m zoo`."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained, survey
from converters.verify import Report, compare, perturb, precision, verify
from jaxft.models import class_layers, efficientnet, googlenet, inception, list_models, materialise, regnet
from jaxft.models.alexnet import AlexNet
from jaxft.models.convnext import ConvNeXt
from jaxft.models.densenet import DenseNet
from jaxft.models.efficientnet_lite import EfficientNetLite
from jaxft.models.googlenet import ConvNorm
from jaxft.models.layers import Linear, LinearOverMap
from jaxft.models.maxvit import MaxViT
from jaxft.models.mnasnet import MNASNet
from jaxft.models.mobilenet_v2 import MobileNetV2
from jaxft.models.mobilenet_v3 import Block, MobileNetV3, hard_swish
from jaxft.models.resnet import BasicBlock, Bottleneck, ResNet
from jaxft.models.shufflenet_v2 import ShuffleNetV2
from jaxft.models.squeezenet import squeezenet1_0
from jaxft.models.swin import SwinTransformer, as_it_is
from jaxft.models.vgg import VGG
from jaxft.models.vit import VisionTransformer

torch = pytest.importorskip("torch")
resnet = pytest.importorskip("torchvision.models.resnet")
swin = pytest.importorskip("torchvision.models.swin_transformer")
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
    theirs = models.MNASNet(0.25, CLASSES)
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


IDLE_GOOGLENET = ("inception4b", "inception4c", "inception5a")
# Without the poolings the auxiliary head gets its pixels from small images.
IDLE_INCEPTION = ("maxpool1", "maxpool2", "Mixed_5d", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7c")


def without(model: Any, parts: Iterable[str], identity: Callable) -> Any:
    for part in parts:
        delattr(model, part)
        setattr(model, part, copy.deepcopy(identity))
    return model


def eighth(channels: int) -> int:
    return channels if channels == 3 else channels // 8


def narrow_inception(module: Any, build: Callable[[], Any], idle: Iterable[str]) -> Any:
    """What `build` makes of that module of ours, with an eighth of the channels and without the idle parts."""

    def convolution(inputs: int, outputs: int, size: Any, **rest: Any) -> nnx.Module:
        return ConvNorm(eighth(inputs), outputs // 8, size, **rest)

    parts = {
        "ConvNorm": convolution,
        "convolution": partial(convolution, deviation=0.1),
        "Linear": lambda inputs, outputs, **rest: Linear(inputs // 8, outputs, **rest),
        "LinearOverMap": lambda _inputs, _outputs, **rest: LinearOverMap((4, 4, 16), 128, **rest),
    }
    with mock.patch.multiple(module, **{name: part for name, part in parts.items() if hasattr(module, name)}):
        return without(build(), idle, as_it_is)


def their_narrow_inception(name: str, build: Callable[[], Any], idle: Iterable[str]) -> Any:
    """The same on PyTorch's side."""
    theirs = pytest.importorskip(f"torchvision.models.{name}")

    class Narrow(theirs.BasicConv2d):
        def __init__(self, inputs: int, outputs: int, **rest: Any) -> None:
            super().__init__(eighth(inputs), outputs // 8, **rest)

    sizes = {size: size // 8 for size in (768, 1024, 2048)}
    with linear(sizes), mock.patch.object(theirs, "BasicConv2d", Narrow):
        return without(build(), idle, torch.nn.Identity())


def shallow_swin(**parts: Any) -> Any:
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [5, 5], num_classes=CLASSES, **parts)


def shallow_efficientnet() -> Any:
    whole, fused = models.efficientnet.MBConvConfig, models.efficientnet.FusedMBConvConfig
    rows = [fused(1, 3, 1, 8, 8, 1), fused(4, 3, 2, 8, 16, 1), whole(1, 5, 2, 16, 24, 1), whole(4, 3, 1, 24, 24, 1)]
    norm = partial(torch.nn.BatchNorm2d, eps=1e-3)
    return models.EfficientNet(rows, 0.2, num_classes=CLASSES, norm_layer=norm, last_channel=64)


def shallow_convnext() -> Any:
    row = models.convnext.CNBlockConfig
    return models.ConvNeXt([row(8, 16, 1), row(16, None, 2)], 0.1, num_classes=CLASSES)


def shallow_regnet(squeeze: float | None) -> Any:
    params = models.regnet.BlockParams.from_init_params(4, 16, 16, 2.0, 8, se_ratio=squeeze)
    return models.RegNet(params, CLASSES)


class Pair(NamedTuple):
    """One architecture, small, on both sides."""

    ours: Callable[[int], nnx.Module]
    theirs: Callable[[], Any]
    size: int = 64
    slack: Mapping[str, float] = {}  # by dtype: a factor on the tolerances, with its reason


# The 1/6 in PyTorch's gradient of Hardsigmoid is that of float32 also in float64.
HARD_SIGMOID = 100.0
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
    "swin": Pair(
        lambda n: SwinTransformer(1, 16, (2, 2), (2, 4), n, window=5, drop_path=0.1, rngs=nnx.Rngs(0)),
        shallow_swin,
        size=48,
    ),
    "swin_v2": Pair(
        lambda n: SwinTransformer(2, 16, (2, 2), (2, 4), n, window=5, drop_path=0.1, rngs=nnx.Rngs(0)),
        lambda: shallow_swin(block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2),
        size=48,
    ),
    "googlenet": Pair(
        lambda n: narrow_inception(
            googlenet, lambda: googlenet.GoogLeNet(n, transform_input=True, rngs=nnx.Rngs(0)), IDLE_GOOGLENET
        ),
        lambda: their_narrow_inception(
            "googlenet",
            lambda: models.GoogLeNet(CLASSES, transform_input=True, init_weights=True),
            IDLE_GOOGLENET,
        ),
    ),
    "inception": Pair(
        lambda n: narrow_inception(
            inception, lambda: inception.Inception3(n, transform_input=True, rngs=nnx.Rngs(0)), IDLE_INCEPTION
        ),
        lambda: their_narrow_inception(
            "inception",
            lambda: models.Inception3(CLASSES, transform_input=True, init_weights=True),
            IDLE_INCEPTION,
        ),
        size=79,
        slack={"float32": 10},  # gradients through eleven blocks of ReLUs, some of which sit on their kinks
    ),
    "maxvit": Pair(
        lambda n: MaxViT(16, (32,), (2,), n, partition=2, drop_path=0.2, rngs=nnx.Rngs(0)),
        lambda: models.MaxVit((32, 32), 16, 2, [32], [2], 32, 0.2, num_classes=CLASSES),
        size=32,
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
    "efficientnet": Pair(
        lambda n: efficientnet.EfficientNet(
            (
                efficientnet.Stage(1, 3, 1, 8, 1, fused=True),
                efficientnet.Stage(4, 3, 2, 16, 1, fused=True),
                efficientnet.Stage(1, 5, 2, 24, 1),
                efficientnet.Stage(4, 3, 1, 24, 1),
            ),
            n,
            stem=8,
            head=64,
            dropout=0.2,
            norm=efficientnet.second,
            rngs=nnx.Rngs(0),
        ),
        shallow_efficientnet,
    ),
    "convnext": Pair(
        lambda n: ConvNeXt((8, 16), (1, 2), n, drop_path=0.1, rngs=nnx.Rngs(0)),
        shallow_convnext,
    ),
    "regnet_x": Pair(
        lambda n: regnet.RegNet(regnet.design(4, 16, 16, 2.0, 8), n, rngs=nnx.Rngs(0)),
        lambda: shallow_regnet(None),
    ),
    "regnet_y": Pair(
        lambda n: regnet.RegNet(regnet.design(4, 16, 16, 2.0, 8), n, squeeze=0.25, rngs=nnx.Rngs(0)),
        lambda: shallow_regnet(0.25),
    ),
    "shufflenet_v2": Pair(
        lambda n: ShuffleNetV2((1, 2, 1), (8, 16, 32, 32, 64), n, rngs=nnx.Rngs(0)),
        lambda: models.ShuffleNetV2([1, 2, 1], [8, 16, 32, 32, 64], CLASSES),
    ),
    "mnasnet": Pair(
        lambda n: MNASNet(0.25, n, stacks=STACKS, rngs=nnx.Rngs(0)),
        shallow_mnasnet,
        # With depthwise channels that are almost always 0, PyTorch's own float32 gradients are as far from its float64.
        slack={"float32": 10},
    ),
    "mobilenet_v2": Pair(
        lambda n: MobileNetV2(n, groups=INVERTED, width=0.25, rngs=nnx.Rngs(0)),
        lambda: models.MobileNetV2(CLASSES, 0.25, INVERTED),
    ),
    "mobilenet_v3": Pair(
        lambda n: MobileNetV3(ROWS, 64, n, rngs=nnx.Rngs(0)),
        shallow_mobilenet_v3,
        slack={"float64": HARD_SIGMOID},
    ),
}


def check(report: Report, dtype: str, slack: float = 1.0) -> None:
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
    assert {name: value for name, (value, tolerance) in found.items() if not value < slack * tolerance} == {}
    assert report.round_trip


# In float64 an error cannot hide in rounding. The precision that runs use is tried on four of the ordinary tests.
BOTH = ("basic", "grouped", "lite", "vit")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[] if dtype == "float64" or name in BOTH else [pytest.mark.zoo])
        for name in SHALLOW
        for dtype in ("float32", "float64")
    ],
)
def test_a_shallow_model_is_pytorchs(name: str, dtype: str) -> None:
    pair = SHALLOW[name]
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
        check(
            compare("shallow", theirs, ours, heads, pixels, labels, dtype, time.perf_counter()),
            dtype,
            pair.slack.get(dtype, 1.0),
        )


@pytest.mark.zoo
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list_models())
def test_a_full_model_is_pytorchs(name: str, dtype: str) -> None:
    try:
        size, batch = survey.images(name)
        report = verify(name, size=size, batch=batch, dtype=dtype)
        if dtype == "float64":
            check(report, dtype, HARD_SIGMOID if name.startswith("mobilenet_v3") else 1.0)
        assert survey.misses(report) == []
    finally:
        jax.clear_caches()
