"""What published weights want to see, against what the installed torchvision says of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from flax import nnx
from PIL import Image

import jaxft
from converters import load_pretrained
from converters.torchvision import WEIGHTS
from jaxft.data.preprocessing import Preprocessing
from jaxft.errors import UserError
from jaxft.models import DETECTORS, Made, abstract_model
from tests.converters.tiny import random_state, tiny

PRESETS = {f"{name}/{weights}": name for name, files in WEIGHTS.items() for weights in files}


class Shell(nnx.Module):
    """A model that says how it was made, and holds nothing."""

    def __init__(self, made: Made) -> None:
        self.made = made


@pytest.mark.parametrize("weights", PRESETS)
def test_it_is_what_torchvision_says(weights: str) -> None:
    name, _, entry = weights.partition("/")
    found = jaxft.preprocessing(Shell(Made(name, None, weights=weights)))
    enum = torchvision.models.get_model_weights(name)
    theirs = enum[entry].transforms()
    if name in DETECTORS:
        with torch.device("meta"):
            inside: Any = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None).transform
        assert (found.resize, found.longest, found.size) == (inside.min_size[0], inside.max_size, None)
        assert (list(found.mean), list(found.std)) == (inside.image_mean, inside.image_std)
    else:
        assert ([found.size], [found.resize]) == (theirs.crop_size, theirs.resize_size)
        assert (list(found.mean), list(found.std)) == (theirs.mean, theirs.std)
        assert (found.interpolation, found.longest, found.bgr) == (theirs.interpolation.value, None, False)
    default = jaxft.preprocessing(Shell(Made(name, None)))
    assert (default == found) or enum.DEFAULT is not enum[entry]


@pytest.mark.parametrize("weights", ["efficientnet_b1/IMAGENET1K_V1", "vit_h_14/IMAGENET1K_SWAG_E2E_V1", "resnet18"])
def test_an_image_becomes_what_torchvision_makes_of_it(weights: str) -> None:
    name, _, entry = weights.partition("/")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 410, 3)).astype(np.uint8)
    ours = jaxft.preprocessing(Shell(Made(name, None, weights=weights)))(pixels)
    enum = torchvision.models.get_model_weights(name)
    theirs = (enum[entry] if entry else enum.DEFAULT).transforms()(Image.fromarray(pixels))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy().transpose(1, 2, 0), atol=1e-5)


def test_the_weights_that_a_model_was_filled_with_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    model = abstract_model("resnet50", 5)
    assert jaxft.preprocessing(model).resize == 232  # IMAGENET1K_V2, the default
    state = random_state(abstract_model("resnet50"))
    monkeypatch.setattr("converters.naming.load", lambda source, sha256: state)
    load_pretrained(model, "torchvision://resnet50/IMAGENET1K_V1", skip=["@head"])
    assert jaxft.preprocessing(model).resize == 256
    assert jaxft.preprocessing(nnx.clone(model)).resize == 256
    load_pretrained(model, "mine.pth", skip=["@head"])
    assert jaxft.preprocessing(model).resize == 232


def test_efficientnet_lites_is_its_own() -> None:
    found = jaxft.preprocessing(abstract_model("efficientnet_lite3", 2))
    assert (found.size, found.resize) == (280, 312)
    black = found(np.zeros((400, 400, 3), np.uint8))
    np.testing.assert_allclose(black, np.full((280, 280, 3), -127 / 128), rtol=1e-5)


def test_channels_can_be_turned_around() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0] = 255
    plain = Preprocessing(size=4, resize=4, mean=(0, 0, 0), std=(1, 1, 1))
    assert plain(pixels)[0, 0].tolist() == [1, 0, 0]
    assert replace(plain, bgr=True)(pixels)[0, 0].tolist() == [0, 0, 1]


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(UserError, match=r"what this Tiny wants to see, since jaxft\.create_model did not make it"):
        jaxft.preprocessing(tiny())
    with pytest.raises(UserError, match="No weights of retinanet_efficientnet_lite0_fpn are published"):
        jaxft.preprocessing(abstract_model("retinanet_efficientnet_lite0_fpn"))
    with pytest.raises(UserError, match=r"A detector sees whole photos.*jaxft\.predict"):
        jaxft.preprocessing(Shell(Made("fcos_resnet50_fpn", None)))(np.zeros((4, 4, 3), np.uint8))
