"""Which model a checkpoint is of, and the names of old that its keys may have."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained, to_torch
from converters.ledger import MismatchError
from converters.recognition import fitting_models, source_shapes
from jaxft.models import abstract_model, list_models
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import values
from tests.converters.tiny import random_state


def test_a_checkpoint_of_another_architecture_is_recognised() -> None:
    state = random_state(abstract_model("resnet34", 7))
    assert fitting_models(state) == ["resnet34"]
    model = abstract_model("resnet18")
    with pytest.raises(MismatchError, match=r"does not fit this ResNet .* Its keys and shapes are those of resnet34"):
        load_pretrained(model, state)
    assert all(isinstance(value, jax.ShapeDtypeStruct) for value in values(model).values())


def test_the_nearest_architecture_is_named_where_none_fits() -> None:
    state = random_state(abstract_model("resnet34", 7))
    del state["layer4.2.conv2.weight"]
    with pytest.raises(MismatchError, match=r"Of all models, resnet34 has most of its keys and shapes \(99%\)"):
        load_pretrained(abstract_model("resnet18"), state)
    with pytest.raises(MismatchError, match=r"nothing was loaded\. Skip what is meant to differ by name\.\n"):
        load_pretrained(abstract_model("resnet18"), {"strange": np.zeros(3, np.float32)})


class OldNames(nnx.Module):
    def __init__(self, num_classes: int = 2, *, rngs: nnx.Rngs) -> None:
        self.denselayer1 = Normalized()


class Normalized(nnx.Module):
    def __init__(self) -> None:
        self.norm1 = BatchNorm(3)


def test_a_densenets_keys_of_old_are_understood() -> None:
    model = OldNames(rngs=nnx.Rngs(0))
    names = {"weight": 2, "bias": 3, "running_mean": 4, "running_var": 5}
    load_pretrained(model, {f"denselayer1.norm.1.{key}": np.full(3, v, np.float32) for key, v in names.items()})
    assert float(model.denselayer1.norm1.var[0]) == 5


def test_a_vits_keys_of_old_are_understood() -> None:
    state = random_state(abstract_model("vit_b_32"))
    new = {"0": "linear_1", "3": "linear_2"}
    old = {re.sub(r"\.mlp\.([03])\.", lambda found: f".mlp.{new[found[1]]}.", key): v for key, v in state.items()}
    assert len(old.keys() - state.keys()) == 12 * 2 * 2
    model = abstract_model("vit_b_32")
    load_pretrained(model, old)
    exported = to_torch(model)
    assert exported.keys() == state.keys()
    assert all(np.array_equal(exported[key], state[key]) for key in state)
    assert fitting_models(old) == ["vit_b_32"]
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        theirs = pytest.importorskip("torchvision").models.vit_b_32(weights=None)
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in old.items()}, strict=True, assign=True)


@pytest.mark.zoo
def test_no_two_models_are_confused() -> None:
    fits = {
        name: fitting_models({key: np.broadcast_to(np.float32(0), shape) for key, shape in source_shapes(name).items()})
        for name in list_models("classification")
    }
    assert fits == {name: [name] for name in list_models("classification")}
