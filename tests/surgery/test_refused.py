"""Edits that cannot be done: one sentence each, and the model stays as it is."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import pytest
from flax import nnx
from jax import Array

import jaxft
from converters.ledger import MismatchError
from jaxft import edits, surgery
from jaxft.config import Config, Model, Pretrained, replace
from jaxft.errors import UserError
from jaxft.models import abstract_model
from jaxft.models.edited import edited
from jaxft.models.layers import Linear
from jaxft.models.layers.pooling import MaxPool
from jaxft.models.paths import values
from jaxft.training.model import ModelSource
from tests.converters.tiny import random_state
from tests.models.classifiers import shallow

Conv = edits.Conv2d(out_channels=256, kernel_size=3, padding=1)
REFUSED: dict[str, tuple[list[Any], str]] = {
    "a path that is not there": (
        [edits.Delete(path="layer5")],
        r"edits\.0 \(Delete layer5\): There is no layer layer5 in the ResNet; the nearest are layer4, .*; its parts",
    ),
    "an item that is not there": (
        [edits.Delete(path="layer4[1].conv2")],
        r"There is no layer layer4\[1\]\.conv2 in the ResNet; the nearest are layer4\.0\.conv2, .*; layer4 has 0\.",
    ),
    "no path": ([edits.Delete(path="layer4[")], r"'layer4\[' is no path; write layer4\[1\]\.conv2 or "),
    "an empty range": ([edits.Delete(path="layer4[1:1]")], r"layer4\[1:1\] names nothing; layer4 has 0\."),
    "a range of no list": (
        [edits.Delete(path="layer4.0[0:1]")],
        r"is a range, but layer4\.0 is no list; name its parts",
    ),
    "shapes that do not fit": (
        [edits.Replace(path="layer4.0.conv2", layer=Conv)],
        r"layer4\.0\.bn2 gets \(1, 1, 1, 256\), and got \(1, 1, 1, 512\) before: it takes 512 channels; "
        r"layer4\.0\.conv2 puts out \(1, 1, 1, 256\), and put out \(1, 1, 1, 512\) before\.",
    ),
    "a shortcut that does not fit": (
        [edits.Replace(path="layer1[0].bn2", layer=[edits.BatchNorm(), edits.MaxPool2d(kernel_size=2)])],
        r"layer1\.0 gets \(1, 8, 8, 64\): TypeError: add got incompatible shapes .*; layer1\.0\.bn2 puts out "
        r"\(1, 4, 4, 64\), and put out \(1, 8, 8, 64\) before\.",
    ),
    "sizes that do not fit": (
        [edits.Replace(path="fc", layer=edits.Linear(in_features=256))],
        r"fc gets \(1, 512\): its in_features is 256\.",
    ),
    "what the forward pass needs": (
        [edits.Delete(path="layer4")],
        r"'NoneType' object is not callable; what it calls cannot be deleted, replace layer4 by Identity\(\)\.",
    ),
    "a contradiction": (
        [edits.Delete(path="layer4[0]"), edits.Replace(path="layer4.0.conv1", layer=edits.Identity())],
        r"edits\.0 \(Delete layer4\[0\]\) and edits\.1 \(Replace layer4\.0\.conv1\) contradict each other: the first "
        r"deletes layer4\.0, the second replaces layer4\.0\.conv1, by the names before both; leave one out\.",
    ),
    "what a cut takes away": (
        [edits.Cut(after="layer2"), edits.Replace(path="layer3[0].conv1", layer=Conv)],
        r"edits\.0 \(Cut after layer2\) and edits\.1 .* contradict each other",
    ),
    "a cut after the end": ([edits.Cut(after="layer4")], r"nothing of the trunk comes after layer4; name an earlier"),
    "a cut in a block": (
        [edits.Cut(after="layer3.0.conv1")],
        r"layer3\.0\.conv1 lies inside of layer3\.0, whose parts",
    ),
    "a field that is not there": (
        [{"type": "Delete", "pat": "fc"}],
        r"unknown field 'pat' in Delete; did you mean 'path'\?, found",
    ),
    "a layer that is not there": (
        [{"type": "Replace", "path": "fc", "layer": {"type": "Conv3d"}}],
        r"a layer is one of the classes of jaxft\.edits, or a dict with a type: Conv2d, ",
    ),
    "whole channels of no map": (
        [edits.Insert(before="fc", layer=edits.Dropout(type="Dropout2d"))],
        r"fc\.0 gets \(1, 512\): a Dropout2d takes feature maps \[N, H, W, C\]\.",
    ),
    "a window without a pixel": (
        [{"type": "Replace", "path": "maxpool", "layer": {"type": "MaxPool2d", "kernel_size": (3, 2), "padding": 2}}],
        r"padding 2 is over half of kernel_size \(3, 2\); give less",
    ),
    "a mean of no pixels": (
        [{"type": "Replace", "path": "maxpool", "layer": {"type": "AvgPool2d", "kernel_size": 3, "padding": 2}}],
        "padding 2 is over half of kernel_size 3; give less",
    ),
    "a place and no place": ([{"type": "Insert", "layer": {"type": "ReLU"}}], "one of before and after must be given"),
}


@cache
def model() -> nnx.Module:
    return nnx.eval_shape(lambda: shallow.NETS["basic"].build(5))


@pytest.mark.parametrize("name", REFUSED)
def test_an_edit_that_cannot_be_done_is_one_sentence(name: str) -> None:
    wanted, message = REFUSED[name]
    paths = list(values(model()))
    with pytest.raises(UserError, match=message) as raised:
        surgery.edit(model(), wanted, image_size=32)
    assert "\n" not in str(raised.value)
    assert list(values(model())) == paths
    assert edited(model()) is None


def test_a_point_that_is_not_there_or_not_called() -> None:
    with pytest.raises(UserError, match=r"There is no layer layr2 .* the nearest are layer2"):
        surgery.create_feature_extractor(model(), ["layr2"], image_size=32)
    with pytest.raises(
        UserError, match=r"calls layer1\.0\.relu only 2 times, so that there would be no layer1\.0\.relu_2"
    ):
        surgery.create_feature_extractor(model(), ["layer1.0.relu_2"], image_size=32)
    with pytest.raises(UserError, match="each under a name of its own"):
        surgery.create_feature_extractor(model(), {"layer1": "x", "layer2": "x"}, image_size=32)
    with pytest.raises(UserError, match="is no layer; give fields"):
        surgery.replace(model(), "fc", 3)
    with pytest.raises(UserError, match=r"A list of layers holds fields of jaxft\.edits; put modules of your own into"):
        surgery.replace(model(), "fc", [edits.Dropout(), Linear(3, 4, rngs=nnx.Rngs(0))])
    with pytest.raises(
        UserError, match=r"an edit is one of the classes of jaxft\.edits, or a dict with a type: Delete, "
    ):
        surgery.edit(model(), [{"type": "Remove", "path": "fc"}])


def test_parts_of_detectors() -> None:
    name = "retinanet_efficientnet_lite0_fpn"
    one, other = (abstract_model(name, 3, channels=channels, stacked_convs=1) for channels in (16, 24))
    with pytest.raises(
        UserError, match=r"There is no layer roi_head in the SingleStage; its parts are backbone, bbox_h"
    ):
        surgery.delete(one, "roi_head", image_size=64)
    with pytest.raises(
        UserError, match=r"bbox_head\.\S+ gets \(1, 8, 8, 24\), and got \(1, 8, 8, 16\) before: it takes 16"
    ):
        surgery.assemble(one, {"neck": other}, image_size=64)
    mixed: Any = surgery.assemble(one, {"neck": other, "bbox_head": other}, image_size=64)
    shapes = {path: value.shape for path, value in values(mixed).items()}
    assert shapes == {path: value.shape for path, value in values(other).items()}


def source(**changes: Any) -> ModelSource:
    config = Config(model=Model(name="resnet18", **changes.pop("model", {})), **changes)
    return ModelSource(replace(config, {"task.images.crop": 32, "task.images.resize": 32}))


def test_a_configuration_whose_edits_go_wrong() -> None:
    short = edits.Replace(path="fc", layer=edits.Linear(out_features=7))
    with pytest.raises(
        UserError, match=r"model\.edits change what .* from \(1, 3\) to \(1, 7\), but the data have 3 cl"
    ):
        source(model={"edits": (short,)}).abstract(3)
    told = source(model={"edits": (edits.Replace(path="fc", layer=edits.Linear(out_features=3)),)})
    told.abstract(3)
    with pytest.raises(
        UserError, match=r"@head stands for .*, but model\.edits leave none; let the last Linear have no"
    ):
        told.head()
    with pytest.raises(UserError, match=r"pretrained\.edited is True, but there are no model\.edits"):
        source(pretrained=Pretrained(edited=True)).check()
    with pytest.raises(UserError, match=r"model\.edits are for a model by name; edit your own with jaxft\.surgery"):
        ModelSource(told.settings, shallow.NETS["vgg_bn"].build(3)).check()


@contextmanager
def nothing_recognized() -> Iterator[None]:
    """Within, no checkpoint is compared with all models there are, which takes its time."""
    with mock.patch("converters.ledger.nearest_model", return_value=None):
        yield


def test_what_does_not_fit_after_an_edit_is_named() -> None:
    whole, ours = abstract_model("squeezenet1_1", 3), abstract_model("squeezenet1_1", 3)
    state = random_state(whole)
    surgery.replace(ours, "features[12]", edits.Conv2d(out_channels=512, kernel_size=1), image_size=32)
    with nothing_recognized(), pytest.raises(MismatchError) as raised:
        jaxft.load_pretrained(ours, state)
    problems = "; ".join(raised.value.problems)
    assert "source key features.12.squeeze.weight has no place in the model" in problems
    assert "our features.12.kernel is not filled: no source key features.12.weight" in problems
    assert re.search(r"It holds what the edits of the model deleted: .* original=True \(pretrained\.edited=False\)",
                     raised.value.claim)  # fmt: skip
    ledger = jaxft.load_pretrained(ours, state, original=None)
    assert ledger.summary() == (
        "state dict: 46 of 52 source keys mapped, 0 skipped, 6 deleted by model.edits; 2 of our leaves are new"
    )
    after = random_state(ours)
    assert len(jaxft.load_pretrained(ours, after, original=None).having("mapped")) == 48
    with (
        nothing_recognized(),
        pytest.raises(MismatchError, match=r"source key features\.12\.weight has no place in the model"),
    ):
        jaxft.load_pretrained(whole, after)


class Idle(nnx.Module):
    """Has a layer that it does not call."""

    def __init__(self) -> None:
        self.used, self.idle = Linear(3, 4, rngs=nnx.Rngs(0)), Linear(3, 4, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        return self.used(x.mean((1, 2)))


class Twice(nnx.Module):
    """Calls a layer with maps of two sizes."""

    def __init__(self) -> None:
        self.pool, self.fc = MaxPool(2, 2), Linear(3, 4, rngs=nnx.Rngs(0))

    def __call__(self, x: Array) -> Array:
        return self.fc((self.pool(self.pool(x)) + x[:, :2, :2]).mean((1, 2)))


def test_calls_of_a_layer_are_compared_one_by_one() -> None:
    with pytest.raises(UserError, match=r"the Twice gets .*; pool puts out \(1, 4, 4, 3\), and put out \(1, 2, 2, 3\)"):
        surgery.replace(Twice(), "pool", [edits.AdaptiveAvgPool2d(output_size=4)], image_size=8)


def test_an_edit_without_effect_is_refused() -> None:
    message = r"edits\.0 \(Replace idle\): the network calls no layer at idle, so that the edit would have no effect"
    with pytest.raises(UserError, match=message):
        surgery.replace(Idle(), "idle", edits.Linear(out_features=2))
    with pytest.raises(UserError, match="The Idle calls idle nowhere, so that there would be no idle"):
        surgery.create_feature_extractor(Idle(), ["idle"])
    with pytest.raises(
        UserError, match="the Idle is no classifier with stages, so that it is not known where its trunk"
    ):
        surgery.cut(Idle(), "used")
