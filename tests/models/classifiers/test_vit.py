from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained
from jaxft.errors import UserError
from jaxft.models import abstract_model
from jaxft.models.classifiers.vit import POSITIONS, VisionTransformer, interpolate_positions

torch = pytest.importorskip("torch")
vision_transformer = pytest.importorskip("torchvision.models.vision_transformer")


def pretrained() -> Any:
    return vision_transformer.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3)


def ours(image_size: int) -> VisionTransformer:
    return VisionTransformer(8, 1, 16, 2, 32, 3, image_size=image_size, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("image_size", [8, 16, 32, 40, 56])
def test_positions_are_interpolated_as_by_torchvision(image_size: int) -> None:
    state = pretrained().state_dict()
    found = interpolate_positions({key: tensor.numpy().copy() for key, tensor in state.items()}, image_size)
    expected = vision_transformer.interpolate_embeddings(image_size, 8, state)
    assert found.keys() == expected.keys()
    assert found[POSITIONS].dtype == np.float32
    np.testing.assert_allclose(found[POSITIONS], expected[POSITIONS].numpy(), rtol=1e-5, atol=1e-7)
    load_pretrained(ours(image_size), found)


def test_images_of_another_size_are_refused() -> None:
    model = ours(32)
    with pytest.raises(UserError, match=r"takes images of 32 by 32 pixels, not 16 by 64; .*interpolate_positions"):
        model(jnp.zeros((1, 16, 64, 3)))
    with pytest.raises(UserError, match="225 by 225 pixels have no whole number of patches of 16"):
        abstract_model("vit_b_16", image_size=225)


def test_dropout_of_both_kinds_changes_what_training_sees() -> None:
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    for option in ("dropout", "attention_dropout"):
        options: dict[str, Any] = {option: 0.5}
        model = VisionTransformer(8, 1, 16, 2, 32, 3, image_size=32, rngs=nnx.Rngs(0), **options)
        plain = ours(32).features(images)
        assert not np.allclose(model.features(images), plain)
        model.eval()
        np.testing.assert_array_equal(model.features(images), plain)
