"""What an export says beside its weights: PyTorch takes those, MMDetection the names of the classes, too."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from flax import nnx

import jaxft
from converters import load_pretrained, to_torch
from converters.carry import carry_classes, check_names
from converters.exports import export
from converters.files import beside, read, read_classes, read_metadata
from converters.mmdet import model_dict, with_classes
from converters.mmdet.coverage import abstract
from converters.mmdet.file import read as read_config
from jaxft.errors import UserError
from jaxft.models import abstract_model
from tests import mmdet_live
from tests.converters.mmdet.test_run import CONFIG
from tests.converters.tiny import random_state, tiny

CLASSES = ("a", "Hündin")
SEEN = jaxft.Preprocessing(size=32, resize=36, mean=(0.5, 0.5, 0.5), interpolation="bicubic")


@pytest.mark.parametrize(
    ("name", "wrapped"), [("m.pth", False), ("m.pt", False), ("m.pth", True), ("m.safetensors", False)]
)
def test_what_is_beside_the_weights_comes_back(tmp_path: Path, name: str, wrapped: bool) -> None:
    model, path = tiny(), tmp_path / "deep" / name
    export(model, path, classes=CLASSES, preprocessing=SEEN, wrapped=wrapped)
    facts = read_metadata(path)
    assert read_classes(path) == CLASSES
    assert jaxft.Preprocessing(**{**facts["preprocessing"], **_tuples(facts["preprocessing"])}) == SEEN
    state = read(path)
    assert state.keys() == to_torch(model).keys()
    assert all(np.array_equal(state[key], value) for key, value in to_torch(model).items())
    inside = wrapped or path.suffix == ".safetensors"
    assert sorted(file.name for file in path.parent.iterdir()) == [name] + ([] if inside else [f"{name}.json"])


def test_weights_never_stand_beside_what_was_said_of_others(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    export(tiny(), path, classes=("old", "older"))
    with mock.patch("converters.exports.write_beside", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        export(tiny(), path, classes=CLASSES)
    assert read_classes(path) == ()


def _tuples(values: dict[str, object]) -> dict[str, object]:
    return {name: tuple(value) for name, value in values.items() if isinstance(value, list)}


def test_torchvision_takes_a_classifiers_file_as_it_is(tmp_path: Path) -> None:
    model = abstract_model("squeezenet1_1", 3)
    load_pretrained(model, random_state(model))
    export(model, tmp_path / "m.pth", classes=("a", "b", "c"))
    theirs = torchvision.models.squeezenet1_1(num_classes=3)
    theirs.load_state_dict(torch.load(tmp_path / "m.pth", weights_only=True), strict=True)
    assert json.loads((tmp_path / "m.pth.json").read_text()) == {
        "dataset_meta": {"classes": ["a", "b", "c"]},
        "model": {"name": "squeezenet1_1", "options": {}},
    }


def test_mmdetections_own_loader_takes_a_detectors_file_and_its_classes(tmp_path: Path) -> None:
    file = tmp_path / "narrow.py"
    file.write_text(CONFIG)
    model = abstract(with_classes(model_dict(file), 2))
    load_pretrained(model, random_state(model))
    export(model, tmp_path / "m.pth", classes=CLASSES, wrapped=True)
    with mmdet_live.quiet():
        from mmdet.apis import init_detector
        from mmengine.config import Config

        theirs = init_detector(Config(read_config(file)), str(tmp_path / "m.pth"), device="cpu", palette="random")
    assert theirs.dataset_meta["classes"] == list(CLASSES)
    state = theirs.state_dict()
    assert all(np.array_equal(state[key].numpy(), value) for key, value in to_torch(model).items())


def test_a_head_of_other_classes_is_noticed_by_the_names_beside_it(tmp_path: Path) -> None:
    export(tiny(), tmp_path / "m.pth", classes=("cat", "dog"))
    ledger = load_pretrained(tiny(), tmp_path / "m.pth")
    with pytest.raises(UserError, match="class 2 is dog there and cow here"):
        check_names(ledger, str(tmp_path / "m.pth"), ("cat", "cow"), lambda: ("fc",))


@pytest.mark.parametrize(("name", "wrapped"), [("m.pth", False), ("m.pth", True), ("m.safetensors", False)])
def test_rows_of_a_head_are_taken_over_from_an_export_by_its_names(tmp_path: Path, name: str, wrapped: bool) -> None:
    export(tiny(3), tmp_path / name, classes=("cat", "dog", "cow"), wrapped=wrapped)
    model = nnx.clone(tiny(2))
    before = np.asarray(model.fc.kernel[...])
    assert carry_classes(model, tmp_path / name, ("hen", "dog"), layers=("fc",)) == ("dog",)
    np.testing.assert_array_equal(model.fc.kernel[..., 1], tiny(3).fc.kernel[..., 1])
    np.testing.assert_array_equal(model.fc.kernel[..., 0], before[..., 0])


def test_an_export_can_say_of_which_configuration_it_is(tmp_path: Path) -> None:
    described = {"type": "RetinaNet", "backbone": {"type": "ResNet", "depth": 18, "out_indices": [0, 1]}, "neck": None}
    export(tiny(), tmp_path / "m.pth", classes=CLASSES, wrapped=True, mmdet=described)
    assert read_metadata(tmp_path / "m.pth") == {
        "dataset_meta": {"classes": list(CLASSES)},
        "model": {"mmdet": described},
    }


def test_facts_of_weights_that_were_there_before_do_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    export(tiny(), path, classes=CLASSES)
    export(tiny(), path)
    assert not beside(path).exists()
    export(tiny(), path, classes=CLASSES)
    export(tiny(), path, classes=("x", "y"), wrapped=True)
    assert not beside(path).exists()
    assert read_classes(path) == ("x", "y")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff"])
def test_damaged_facts_are_named_and_the_weights_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.pth"
    export(tiny(), path, classes=CLASSES)
    beside(path).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"m\.pth\.json cannot be read as JSON"):
        read_metadata(path)
    assert len(read(path)) == 15
    beside(path).write_text("[3]")
    assert read_metadata(path) == {}


def test_another_suffix_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m\.npz ends in none of \.pth, \.pt, "):
        jaxft.save(tiny(), tmp_path / "m.npz")
    with pytest.raises(UserError, match=r"^15 leaves of this Tiny are shapes without values, \w+\.\w+ the first"):
        jaxft.save(abstract_tiny(), tmp_path / "m.pth")
    assert not list(tmp_path.iterdir())


def abstract_tiny() -> nnx.Module:

    return nnx.eval_shape(tiny)
