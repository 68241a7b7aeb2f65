"""Depths follow the order in which a network uses its blocks."""

from typing import Any

import jax.numpy as jnp
import pytest

from jaxft.models import abstract_model
from jaxft.models.depth import depths
from tests.models.classifiers.shallow import CLASSES, NETS

EXPECTED = {
    "resnet18": (
        9,
        {
            "conv1.kernel": 0,
            "bn1.scale": 0,
            "layer1.0.conv1.kernel": 1,
            "layer2.0.downsample.0.kernel": 3,
            "fc.bias": 9,
        },
    ),
    "vit_b_16": (
        13,
        {
            "class_token": 0,
            "conv_proj.kernel": 0,
            "encoder.pos_embedding": 0,
            "encoder.layers.encoder_layer_0.ln_1.scale": 1,
            "encoder.layers.encoder_layer_11.mlp.0.kernel": 12,
            "encoder.ln.scale": 13,
            "heads.head.kernel": 13,
        },
    ),
    "swin_t": (
        16,
        {
            "features.0.0.kernel": 0,
            "features.1.0.attn.qkv.kernel": 1,
            "features.2.reduction.kernel": 3,
            "features.7.1.mlp.0.kernel": 15,
            "norm.scale": 16,
            "head.kernel": 16,
        },
    ),
    "convnext_tiny": (19, {"features.0.0.kernel": 0, "features.1.0.block.0.kernel": 1, "features.2.1.kernel": 3}),
    "fasterrcnn_resnet50_fpn": (
        17,
        {"backbone.conv1.kernel": 0, "backbone.layer4.2.conv3.kernel": 16, "neck.fpn_convs.0.conv.bias": 17},
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_depths_of_known_networks(name: str) -> None:
    model: Any = abstract_model(name)
    model.eval()
    x = jnp.zeros((1, 224, 224, 3))
    found = depths(model, lambda model: model.backbone(x) if hasattr(model, "backbone") else model(x))
    last, some = EXPECTED[name]
    assert max(found.values()) == last
    assert sorted(set(found.values())) == list(range(last + 1))
    assert {path: found[path] for path in some} == some


BLOCKS = {"regnet_y_400mf": 16, "maxvit_t": 11, "densenet121": 7, "efficientnet_b0": 16, "mnasnet1_0": 16}


@pytest.mark.parametrize("name", BLOCKS)
def test_how_many_blocks_a_network_has(name: str) -> None:
    """Of a DenseNet dense blocks and transitions."""
    model: Any = abstract_model(name)
    model.eval()
    assert max(depths(model, lambda model: model(jnp.zeros((1, 224, 224, 3)))).values()) == BLOCKS[name] + 1


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_family_has_a_first_and_a_last_part(name: str) -> None:
    model: Any = NETS[name].build(CLASSES)
    model.eval()
    x = jnp.zeros((1, NETS[name].size, NETS[name].size, 3))
    found = depths(model, lambda model: model(x))
    assert set(found.values()) <= set(range(max(found.values()) + 1))
    assert ({depth > 0 for depth in found.values()} == {True}) == (
        name in {"alexnet", "vgg", "vgg_bn", "googlenet", "inception"}
    )
