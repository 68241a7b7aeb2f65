"""Features at named points beside torchvision's `create_feature_extractor`."""

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torchvision.models.feature_extraction import create_feature_extractor

import jaxft
from converters.verify import as_torch, precision, widened
from converters.verify_reference import perturb
from jaxft import surgery
from jaxft.errors import UserError
from jaxft.models.layers import Conv
from jaxft.models.paths import filled, modules, values
from jaxft.models.streams import QUICK
from tests.models.classifiers import shallow, shallow_torch

SIZE = 32
NODES = {
    "basic": {
        "maxpool": "stem",
        "layer1.0.conv2": "inside",
        "layer1.0.relu_1": "again",
        "layer3": "layer3",
        "avgpool": "pooled",
        "fc": "logits",
    },
    "efficientnet": {
        "features.3.0.block.1": "unit",
        "features.3": "row",
        "avgpool": "pooled",
        "classifier.1": "last",
    },
    "vit": {
        "conv_proj": "patches",
        "encoder.layers.encoder_layer_0.mlp": "inside",
        "encoder.layers.encoder_layer_1": "tokens",
        "encoder.ln": "normalized",
        "heads.head": "logits",
    },
}


def both(name: str) -> tuple[Any, Any, np.ndarray]:
    """PyTorch's net and ours with its weights, in float64, and images."""
    torch.manual_seed(0)
    theirs: Any = shallow_torch.NETS[name]()
    with torch.no_grad():
        perturb(theirs, 0)
    ours: Any = nnx.eval_shape(lambda: shallow.NETS[name].build(shallow.CLASSES))
    jaxft.load_pretrained(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    ours.eval()
    return theirs.double().eval(), widened(ours, "float64"), np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3))


def as_theirs(array: Any) -> np.ndarray:
    found = np.asarray(array)
    return found.transpose(0, 3, 1, 2) if found.ndim == 4 else found


@pytest.mark.parametrize("name", NODES)
def test_features_and_their_gradients_are_torchvisions(name: str) -> None:
    with precision("float64"):
        theirs, ours, images = both(name)
        extractor = surgery.create_feature_extractor(ours, NODES[name], image_size=SIZE)
        expected = create_feature_extractor(theirs, NODES[name])(torch.from_numpy(images).permute(0, 3, 1, 2))

        def total(arrays: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            found = surgery.FeatureExtractor(filled(ours, arrays), extractor.points)(x)
            return sum((y**2).mean() for y in found.values()), found

        params, rest = values(ours, nnx.Param), values(ours, nnx.BatchStat)
        run = jax.jit(jax.grad(lambda some, x: total(some | rest, x), has_aux=True), compiler_options=QUICK)
        gradients, found = run(params, jnp.asarray(images))
        assert list(found) == sorted(NODES[name].values())
        for key, tensor in expected.items():
            np.testing.assert_allclose(as_theirs(found[key]), tensor.detach().numpy(), rtol=1e-9, atol=1e-9)
        torch.stack([(tensor**2).mean() for tensor in expected.values()]).sum().backward()
        their_gradients = {key: parameter.grad.numpy() for key, parameter in theirs.named_parameters()}
        for key, gradient in as_torch(ours, gradients).items():
            np.testing.assert_allclose(gradient, their_gradients[key], rtol=1e-8, atol=1e-9, err_msg=key)


def test_what_comes_later_is_not_computed_and_training_moves_statistics() -> None:
    model = shallow.NETS["basic"].build(shallow.CLASSES)
    extractor = surgery.create_feature_extractor(model, ["layer1", "layer2[0].bn1"], image_size=SIZE)
    before = {path: np.asarray(value) for path, value in values(model).items()}
    extractor.train()
    found = nnx.jit(lambda extractor, x: extractor(x))(extractor, jnp.ones((2, SIZE, SIZE, 3)))
    assert {name: y.shape for name, y in found.items()} == {"layer1": (2, 8, 8, 64), "layer2[0].bn1": (2, 4, 4, 128)}
    changed = {path for path, value in values(model).items() if not np.array_equal(value, before[path])}
    assert {path.rpartition(".")[0] for path in changed} == {"bn1", "layer1.0.bn1", "layer1.0.bn2", "layer2.0.bn1"}


class Looped(nnx.Module):
    """Calls a layer image by image, and another as it is."""

    def __init__(self) -> None:
        self.conv, self.last = (Conv(3, 3, 1, rngs=nnx.Rngs(0)) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(jax.lax.map(lambda one: self.conv(one[None])[0], x))


def test_a_point_in_a_loop_is_refused() -> None:
    model = Looped()
    with pytest.raises(
        UserError, match=r"conv is called inside of a loop or a branch \(jax\.lax\.map, .* name a layer"
    ):
        surgery.create_feature_extractor(model, ["last", "conv"], image_size=4)
    extractor = surgery.create_feature_extractor(model, ["last"], image_size=4)
    assert extractor(jnp.ones((2, 4, 4, 3)))["last"].shape == (2, 4, 4, 3)


def test_an_error_inside_leaves_the_model_as_it_was() -> None:
    model: Any = shallow.NETS["basic"].build(shallow.CLASSES)
    extractor = surgery.create_feature_extractor(model, {"layer1.0.bn1": "y"}, image_size=SIZE)
    images = jnp.ones((1, 8, 8, 3))
    with mock.patch.object(Conv, "__call__", side_effect=RuntimeError("no memory")), pytest.raises(RuntimeError):
        extractor(images)
    assert extractor(images)["y"].shape == (1, 2, 2, 64)
    assert all(type(layer).__module__.startswith("jaxft.") for _, layer in modules(model) if layer is not model)
    assert not any(hasattr(layer, "surgery_tap") for _, layer in modules(model))
