"""Where a classifier looks, beside PyTorch's gradients."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
import torchvision
from flax import nnx

import jaxft
from jaxft.config import Classification
from jaxft.training.heat import heat_maps

TASK = Classification().task("float32")


class Images:
    """Random pictures of one size."""

    classes = ("a", "b", "c")

    def evaluation(self, index: int) -> Any:
        pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        return {"image": pixels, "label": np.int32(0)}


def test_heat_is_that_of_pytorchs_gradients() -> None:
    theirs = torchvision.models.squeezenet1_1(num_classes=3).eval()
    model = jaxft.create_model("squeezenet1_1", 3, pretrained=theirs.state_dict())
    model.eval()
    images: Any = Images()
    found = heat_maps(TASK, model, images, [3, 5])
    assert list(found) == [3, 5]
    for index, heat in found.items():
        pixels = np.array(TASK.images(jnp.asarray(images.evaluation(index)["image"])[None]))
        maps = theirs.features(torch.tensor(pixels).permute(0, 3, 1, 2)).detach().requires_grad_()
        classifier = theirs.classifier
        scores = classifier[2](classifier[1](maps)).detach().requires_grad_()  # the last map of several places
        classifier[3](scores).flatten(1).max().backward()
        expected = (scores * scores.grad.mean((2, 3), keepdim=True)).sum(1).relu()[0].detach().numpy()  # type: ignore[union-attr]
        assert heat.shape == expected.shape
        np.testing.assert_allclose(heat, expected / max(expected.max(), 1e-30), atol=1e-5)


def test_what_has_no_feature_map_has_no_heat() -> None:
    class Flat(nnx.Module):
        def __init__(self) -> None:
            self.fc = nnx.Linear(64 * 64 * 3, 3, rngs=nnx.Rngs(0))

        def __call__(self, images: Any) -> Any:
            return self.fc(images.reshape(len(images), -1))

    images: Any = Images()
    assert heat_maps(TASK, Flat(), images, [0]) == {}
    none: Any = SimpleNamespace(link=None)
    assert heat_maps(none, Flat(), images, [0]) == {}
    assert heat_maps(TASK, Flat(), images, []) == {}
