"""HRNet, its pyramid, RegNet, weight standardization and global context against live MMDetection."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import load_pretrained
from converters.mmdet.coverage import abstract
from tests import mmdet_live

torch = pytest.importorskip("torch")


def narrow_hrnet(model: Any) -> None:
    stages = {f"stage{number}": {"num_modules": 1, "num_branches": number, "block": "BASIC",
                                 "num_blocks": (1,) * number, "num_channels": (4, 8, 16, 32)[:number]}
              for number in (1, 2, 3, 4)}  # fmt: skip
    stages["stage1"]["block"] = "BOTTLENECK"
    model["backbone"] |= {"extra": stages, "init_cfg": None}
    model["neck"] |= {"in_channels": [4, 8, 16, 32], "out_channels": 16}
    narrow_heads(model)


def narrow_heads(model: Any) -> None:
    model["rpn_head"] |= {"in_channels": 16, "feat_channels": 16}
    head = model["roi_head"]
    head["bbox_head"] |= {"in_channels": 16, "fc_out_channels": 8, "num_classes": 2}
    if "conv_out_channels" in head["bbox_head"]:
        head["bbox_head"]["conv_out_channels"] = 32


def narrow_regnet(model: Any) -> None:
    model["neck"]["out_channels"] = 16
    narrow_heads(model)


def narrow_standardized(model: Any) -> None:
    model["backbone"] |= {"depth": 18, "base_channels": 32, "init_cfg": None}
    model["neck"] |= {"in_channels": [32, 64, 128, 256], "out_channels": 32}
    narrow_heads(model)
    model["rpn_head"]["in_channels"] = model["roi_head"]["bbox_head"]["in_channels"] = 32


def narrow_context(model: Any) -> None:
    model["backbone"] |= {"base_channels": 8, "init_cfg": None}
    model["neck"] |= {"in_channels": [32, 64, 128, 256], "out_channels": 16}
    del model["roi_head"]["mask_head"], model["roi_head"]["mask_roi_extractor"]
    narrow_heads(model)


HRNET = ("faster-rcnn_hrnetv2p-w18-1x_coco.py", narrow_hrnet)
REGNET = ("faster-rcnn_regnetx-400MF_fpn_ms-3x_coco.py", narrow_regnet)
STANDARDISED = ("faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py", narrow_standardized)


CONTEXT = ("mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco.py", narrow_context)


def pair(name: str, narrow: Any) -> tuple[Any, Any]:
    """MMDetection's detector and ours with the same weights, in evaluation mode."""
    model = mmdet_live.config(name).model.to_dict()
    narrow(model)
    torch.manual_seed(0)
    theirs, ours = mmdet_live.build(model), abstract(model)
    for key, value in theirs.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif key.endswith(("bn1.weight", "bn2.weight", "bn3.weight", "running_mean")):
            value.normal_(0.5, 0.3)
        elif "channel_add_conv" in key:
            value.normal_(0, 0.3)
    load_pretrained(ours, {key: value.numpy() for key, value in theirs.state_dict().items()})
    theirs.eval()
    ours.eval()
    return theirs, ours


def close(mine: jax.Array, other: Any, tolerance: float) -> None:
    expected = other.detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(mine, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


IMAGES = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)


@pytest.mark.parametrize(("name", "narrow"), [HRNET, STANDARDISED, CONTEXT])
def test_maps_are_mmdetections(name: str, narrow: Any) -> None:
    theirs, ours = pair(name, narrow)
    with mmdet_live.quiet(), torch.no_grad():
        maps = theirs.extract_feat(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy()))
    found = jax.jit(ours.feature_maps)(jnp.asarray(IMAGES))
    assert len(found) == len(maps) == 5
    for mine, other in zip(found, maps, strict=True):
        close(mine, other, 1e-4)


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "narrow"), [HRNET, REGNET, STANDARDISED, CONTEXT])
def test_maps_and_gradients_are_mmdetections(name: str, narrow: Any) -> None:
    theirs, ours = pair(name, narrow)
    with mmdet_live.quiet():
        x = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy()).requires_grad_()
        maps = theirs.extract_feat(x)
        sum((value * value).mean() for value in maps).backward()

    def loss(images: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        found = ours.feature_maps(images)
        return sum((jnp.square(value).mean() for value in found), jnp.zeros(())), found

    gradient, found = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(IMAGES))
    for mine, other in zip(found, maps, strict=True):
        close(mine, other, 1e-4)
    close(gradient, x.grad, 1e-3)
