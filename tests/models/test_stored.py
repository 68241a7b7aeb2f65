"""Parity where torch is absent, with outputs of PyTorch that `make_stored.py` stored."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained
from converters.rules import leaves
from jaxft.models import materialise
from tests.models.stored_nets import OURS, STORED, images, weights


@pytest.mark.parametrize("name", OURS)
def test_logits_are_those_that_pytorch_gave(name: str) -> None:
    expected = np.load(Path(__file__).parent / STORED)[name]
    model = nnx.eval_shape(OURS[name])
    load_pretrained(model, weights((leaf.key, leaf.source_shape) for leaf in leaves(model)))
    materialise(model, OURS[name])
    model.eval()
    logits = nnx.jit(lambda model, images: model(images))(model, jnp.asarray(images()))
    assert expected.shape == logits.shape
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
