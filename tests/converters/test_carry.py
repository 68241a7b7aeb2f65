"""Rows of a head carried over by class name, and keys of older MMDetection versions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained, to_torch
from converters.carry import carry_classes
from converters.mmdet.spelling import modern_keys
from converters.rules import leaves
from jaxft.errors import UserError
from jaxft.models import class_layers
from jaxft.models.detectors.dense.retina_head import RetinaHead
from jaxft.models.detectors.roi.bbox_head import ConvFCBBoxHead
from jaxft.models.detectors.roi.mask_head import FCNMaskHead
from tests.converters.tiny import random_state, tiny

THEIRS, OURS = ("cat", "dog", "bird"), ("bird", "fish", "cat", "plane")
LAYERS = ("box.fc_cls", "box.fc_reg", "mask.conv_logits", "dense.retina_cls")


class Heads(nnx.Module):
    def __init__(self, classes: int, *, first: bool = False, agnostic: bool = False) -> None:
        rngs = nnx.Rngs(classes)
        self.box = ConvFCBBoxHead(
            2, classes, roi_feat_size=1, background_first=first, reg_class_agnostic=agnostic, rngs=rngs
        )
        self.mask = FCNMaskHead(2, classes, num_convs=0, conv_out_channels=2, background_first=first, rngs=rngs)
        self.dense = RetinaHead(classes, 2, feat_channels=2, stacked_convs=1, rngs=rngs)


def filled(classes: int, **options: bool) -> tuple[Heads, dict[str, np.ndarray]]:
    model = nnx.eval_shape(lambda: Heads(classes, **options))
    state = random_state(model, seed=classes)
    load_pretrained(model, state)
    return model, state


@pytest.mark.parametrize("first", [False, True])
def test_rows_of_every_kind_of_head_follow_their_class(first: bool) -> None:
    _, source = filled(3, first=first)
    model, before = filled(4, first=first)
    assert carry_classes(model, source, OURS, layers=LAYERS, theirs=THEIRS) == ("bird", "cat")
    after = to_torch(model)
    start = int(first)
    for ours, theirs in ((0, 2), (2, 0), (1, None), (3, None)):
        for key, each in (("box.fc_cls", 1), ("box.fc_reg", 4), ("mask.conv_logits", 1)):
            for leaf in ("weight", "bias"):
                name = f"{key}.{leaf}"
                rows = slice((ours + start) * each, (ours + start + 1) * each)
                old = before[name][rows]
                if theirs is not None:
                    old = source[name][(theirs + start) * each : (theirs + start + 1) * each]
                np.testing.assert_array_equal(after[name][rows], old, err_msg=f"{name} {ours}")
        for anchor in range(9):
            old = before["dense.retina_cls.bias"][anchor * 4 + ours]
            if theirs is not None:
                old = source["dense.retina_cls.bias"][anchor * 3 + theirs]
            assert after["dense.retina_cls.bias"][anchor * 4 + ours] == old
    background, theirs_background = (0, 0) if first else (4, 3)
    np.testing.assert_array_equal(after["box.fc_cls.bias"][background], source["box.fc_cls.bias"][theirs_background])
    for key in after.keys() - {f"{layer}.{leaf}" for layer in LAYERS for leaf in ("weight", "bias")}:
        np.testing.assert_array_equal(after[key], before[key], err_msg=key)


def test_the_layers_that_put_out_the_classes_are_those_that_are_carried() -> None:
    def heads(classes: int, agnostic: bool = False) -> Heads:
        return nnx.eval_shape(lambda: Heads(classes, agnostic=agnostic))

    assert set(class_layers(heads)) == set(LAYERS)
    assert "box.fc_reg" not in class_layers(lambda classes: heads(classes, agnostic=True))


def test_a_classifier_has_no_background() -> None:
    source, model = random_state(tiny(3)), tiny(4)
    carry_classes(model, source, OURS, layers=("fc",), theirs=THEIRS)
    state = to_torch(model)
    np.testing.assert_array_equal(state["fc.weight"][[0, 2]], source["fc.weight"][[2, 0]])


def test_names_come_from_the_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source, model, path = random_state(tiny(3)), tiny(4), tmp_path / "epoch_1.pth"
    tensors = {key: torch.from_numpy(value) for key, value in source.items()}
    torch.save({"state_dict": tensors, "meta": {"dataset_meta": {"classes": THEIRS}}}, path)
    assert carry_classes(model, path, OURS, layers=("fc",)) == ("bird", "cat")
    np.testing.assert_array_equal(to_torch(model)["fc.bias"][0], source["fc.bias"][2])
    torch.save(tensors, path)
    with pytest.raises(UserError, match=r"epoch_1\.pth holds no names of classes"):
        carry_classes(model, path, OURS, layers=("fc",))


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (("horse",), THEIRS, "knows none of the classes horse; it knows cat, dog, bird"),
        (("cats", "cow"), THEIRS, r"none of the classes cats, cow; .*the nearest to cats are cat"),
        (("cat", "dog"), ("cat", "dog"), r"fc\.weight has 3 rows there for 2 classes, 4 here"),
    ],
)
def test_what_cannot_be_carried_is_said_and_nothing_changes(ours: Any, theirs: Any, message: str) -> None:
    model = tiny(4)
    before = to_torch(model)
    with pytest.raises(UserError, match=message):
        carry_classes(model, random_state(tiny(3)), ours, layers=("fc",), theirs=theirs)
    for key, value in to_torch(model).items():
        np.testing.assert_array_equal(value, before[key])


def test_a_pattern_with_a_tilde_may_match_nothing() -> None:
    model, state = tiny(), random_state(tiny())
    assert not load_pretrained(model, state, skip=("~head",)).having("skipped")
    assert load_pretrained(model, state, skip=("~fc",)).having("skipped")


def test_older_spellings_become_those_of_today() -> None:
    fcos = {f"bbox_head.{name}.weight" for name in ("cls_convs.0.conv", "conv_cls", "conv_reg", "conv_centerness")}
    keys = ["bbox_head.fcos_cls.weight", "bbox_head.centerness.weight", "bbox_head.cls_convs.0.conv.weight"]
    assert modern_keys(keys, fcos) == {
        "bbox_head.fcos_cls.weight": "bbox_head.conv_cls.weight",
        "bbox_head.centerness.weight": "bbox_head.conv_centerness.weight",
    }
    rpn = {"bbox_head.rpn_cls.weight"}
    assert modern_keys(["rpn_head.rpn_cls.weight"], rpn) == {"rpn_head.rpn_cls.weight": "bbox_head.rpn_cls.weight"}
    assert modern_keys(["bbox_head.rpn_cls.weight"], {"rpn_head.rpn_cls.weight"}) == {
        "bbox_head.rpn_cls.weight": "rpn_head.rpn_cls.weight"
    }
    atss = {"bbox_head.atss_cls.weight"}
    assert modern_keys(atss, atss) == {}
    assert modern_keys([leaf.key for leaf in leaves(tiny())], [leaf.key for leaf in leaves(tiny())]) == {}
