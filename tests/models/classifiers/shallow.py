"""Each architecture once, with few blocks and narrow: our side, without PyTorch; `shallow_torch.py` has the other."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

from flax import nnx

from jaxft.models.classifiers import efficientnet, googlenet, inception, regnet
from jaxft.models.classifiers.alexnet import AlexNet
from jaxft.models.classifiers.convnext import ConvNeXt
from jaxft.models.classifiers.densenet import DenseNet
from jaxft.models.classifiers.efficientnet_lite import EfficientNetLite
from jaxft.models.classifiers.googlenet import ConvNorm
from jaxft.models.classifiers.maxvit import MaxViT
from jaxft.models.classifiers.mnasnet import MNASNet
from jaxft.models.classifiers.mobilenet_v2 import MobileNetV2
from jaxft.models.classifiers.mobilenet_v3 import Block, MobileNetV3, hard_swish
from jaxft.models.classifiers.resnet import BasicBlock, Bottleneck, ResNet
from jaxft.models.classifiers.shufflenet_v2 import ShuffleNetV2
from jaxft.models.classifiers.squeezenet import squeezenet1_0
from jaxft.models.classifiers.swin import SwinTransformer, as_it_is
from jaxft.models.classifiers.vgg import VGG
from jaxft.models.classifiers.vit import VisionTransformer
from jaxft.models.layers import Linear, LinearOverMap

CLASSES = 5
STACKS = ((24, 3, 2, 3, 1), (40, 5, 2, 3, 2))
# (expansion, channels, repeats, stride)
INVERTED = ((1, 32, 1, 1), (6, 64, 2, 2), (6, 96, 1, 1))
# (kernel, width inside, channels out, squeeze-and-excitation, hard swish, stride)
ROWS = (
    Block(3, 16, 16, True, nnx.relu, 2),
    Block(5, 48, 24, True, hard_swish, 2),
    Block(3, 72, 24, False, hard_swish, 1),
)
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


class Net(NamedTuple):
    """A small net for a number of classes, and the side of its images."""

    build: Callable[[int], nnx.Module]
    size: int = 64


NETS = {
    "basic": Net(
        lambda n: ResNet(BasicBlock, (1, 1, 1, 1), n, rngs=nnx.Rngs(0)),
    ),
    "grouped": Net(
        lambda n: ResNet(Bottleneck, (1, 1, 1, 1), n, groups=32, width_per_group=4, rngs=nnx.Rngs(0)),
    ),
    "alexnet": Net(
        lambda n: AlexNet(n, hidden=32, rngs=nnx.Rngs(0)),
        size=80,
    ),
    "densenet": Net(
        lambda n: DenseNet(8, (2, 2), 16, n, rngs=nnx.Rngs(0)),
    ),
    "swin": Net(
        lambda n: SwinTransformer(1, 16, (2, 2), (2, 4), n, window=5, drop_path=0.1, rngs=nnx.Rngs(0)),
        size=48,
    ),
    "swin_v2": Net(
        lambda n: SwinTransformer(2, 16, (2, 2), (2, 4), n, window=5, drop_path=0.1, rngs=nnx.Rngs(0)),
        size=48,
    ),
    "googlenet": Net(
        lambda n: narrow_inception(
            googlenet, lambda: googlenet.GoogLeNet(n, transform_input=True, rngs=nnx.Rngs(0)), IDLE_GOOGLENET
        ),
    ),
    "inception": Net(
        lambda n: narrow_inception(
            inception, lambda: inception.Inception3(n, transform_input=True, rngs=nnx.Rngs(0)), IDLE_INCEPTION
        ),
        size=79,
    ),
    "maxvit": Net(
        lambda n: MaxViT(16, (32,), (2,), n, partition=2, drop_path=0.2, rngs=nnx.Rngs(0)),
        size=32,
    ),
    "vit": Net(
        lambda n: VisionTransformer(8, 2, 16, 2, 32, n, image_size=32, rngs=nnx.Rngs(0)),
        size=32,
    ),
    "squeezenet1_0": Net(
        lambda n: squeezenet1_0(n, rngs=nnx.Rngs(0)),
        size=48,
    ),
    "vgg": Net(
        lambda n: VGG((1, 1), n, batch_norm=False, widths=(8, 16), hidden=32, rngs=nnx.Rngs(0)),
    ),
    "vgg_bn": Net(
        lambda n: VGG((1, 1), n, batch_norm=True, widths=(8, 16), hidden=32, rngs=nnx.Rngs(0)),
    ),
    "lite": Net(
        lambda n: EfficientNetLite(n, width=1.0, depth=0.3, dropout=0.2, drop_path=0.2, rngs=nnx.Rngs(0)),
    ),
    "efficientnet": Net(
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
    ),
    "convnext": Net(
        lambda n: ConvNeXt((8, 16), (1, 2), n, drop_path=0.1, rngs=nnx.Rngs(0)),
    ),
    "regnet_x": Net(
        lambda n: regnet.RegNet(regnet.design(4, 16, 16, 2.0, 8), n, rngs=nnx.Rngs(0)),
    ),
    "regnet_y": Net(
        lambda n: regnet.RegNet(regnet.design(4, 16, 16, 2.0, 8), n, squeeze=0.25, rngs=nnx.Rngs(0)),
    ),
    "shufflenet_v2": Net(
        lambda n: ShuffleNetV2((1, 2, 1), (8, 16, 32, 32, 64), n, rngs=nnx.Rngs(0)),
    ),
    "mnasnet": Net(
        lambda n: MNASNet(0.25, n, stacks=STACKS, rngs=nnx.Rngs(0)),
    ),
    "mobilenet_v2": Net(
        lambda n: MobileNetV2(n, groups=INVERTED, width=0.25, rngs=nnx.Rngs(0)),
    ),
    "mobilenet_v3": Net(
        lambda n: MobileNetV3(ROWS, 64, n, rngs=nnx.Rngs(0)),
    ),
}
