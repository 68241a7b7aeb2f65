"""The nets of `shallow.py` as PyTorch builds them."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from efficientnet_lite_pytorch import EfficientNet
from torchvision import models
from torchvision.models import resnet, vgg
from torchvision.models import swin_transformer as swin

from tests.models.classifiers.shallow import CLASSES, IDLE_GOOGLENET, IDLE_INCEPTION, INVERTED, eighth, without


def shallow_lite() -> Any:
    changes = {"drop_connect_rate": 0.0, "image_size": None, "depth_coefficient": 0.3}
    return EfficientNet.from_name("efficientnet-lite0", num_classes=CLASSES, **changes)


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


def shallow_mnasnet() -> Any:
    theirs = models.MNASNet(0.25, CLASSES)
    head = torch.nn.Conv2d(16, 1280, 1, bias=False)
    torch.nn.init.kaiming_normal_(head.weight, mode="fan_out")
    stem, first, second, last = theirs.layers[:8], theirs.layers[8][:1], theirs.layers[9][:2], theirs.layers[15:]
    theirs.layers = torch.nn.Sequential(*stem, first, second, head, *last)
    return theirs


def shallow_mobilenet_v3() -> Any:
    row = models.mobilenetv3.InvertedResidualConfig
    rows = [
        row(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        row(16, 5, 48, 24, True, "HS", 2, 1, 1.0),
        row(24, 3, 72, 24, False, "HS", 1, 1, 1.0),
    ]
    return models.MobileNetV3(rows, 64, CLASSES)


def their_narrow_inception(name: str, build: Callable[[], Any], idle: Iterable[str]) -> Any:
    """The same on PyTorch's side."""
    theirs = importlib.import_module(f"torchvision.models.{name}")

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


NETS = {
    "basic": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], CLASSES),
    "grouped": lambda: resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], CLASSES, groups=32, width_per_group=4),
    "alexnet": narrow_alexnet,
    "densenet": lambda: models.DenseNet(8, (2, 2), 16, num_classes=CLASSES),
    "swin": shallow_swin,
    "swin_v2": lambda: shallow_swin(block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2),
    "googlenet": lambda: their_narrow_inception(
        "googlenet",
        lambda: models.GoogLeNet(CLASSES, transform_input=True, init_weights=True),
        IDLE_GOOGLENET,
    ),
    "inception": lambda: their_narrow_inception(
        "inception",
        lambda: models.Inception3(CLASSES, transform_input=True, init_weights=True),
        IDLE_INCEPTION,
    ),
    "maxvit": lambda: models.MaxVit((32, 32), 16, 2, [32], [2], 32, 0.2, num_classes=CLASSES),
    "vit": lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES),
    "squeezenet1_0": lambda: models.squeezenet1_0(num_classes=CLASSES),
    "vgg": lambda: shallow_vgg(False),
    "vgg_bn": lambda: shallow_vgg(True),
    "lite": shallow_lite,
    "efficientnet": shallow_efficientnet,
    "convnext": shallow_convnext,
    "regnet_x": lambda: shallow_regnet(None),
    "regnet_y": lambda: shallow_regnet(0.25),
    "shufflenet_v2": lambda: models.ShuffleNetV2([1, 2, 1], [8, 16, 32, 32, 64], CLASSES),
    "mnasnet": shallow_mnasnet,
    "mobilenet_v2": lambda: models.MobileNetV2(CLASSES, 0.25, INVERTED),
    "mobilenet_v3": shallow_mobilenet_v3,
}
