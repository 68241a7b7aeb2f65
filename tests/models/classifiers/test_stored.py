"""Parity where torch is absent, with outputs of PyTorch that `make_stored.py` stored."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained, survey
from converters.rules import leaves
from jaxft.models import initialize_missing
from jaxft.models.layers import Buffer
from tests.models.classifiers.shallow import CLASSES, NETS
from tests.models.classifiers.stored import LOGITS, images, weights


@pytest.mark.parametrize("name", NETS)
def test_logits_are_those_that_pytorch_gave(name: str) -> None:
    with np.load(LOGITS) as stored:
        expected = stored[name]
    model = nnx.eval_shape(lambda: NETS[name].build(CLASSES))
    tables = [leaf.key for leaf in leaves(model) if isinstance(leaf.variable, Buffer)]
    drawn = weights((leaf.key, leaf.source_shape) for leaf in leaves(model) if leaf.key not in tables)
    load_pretrained(model, drawn, skip=tables)
    initialize_missing(model, lambda: NETS[name].build(CLASSES))
    model.eval()
    logits = nnx.jit(lambda model, images: model(images))(model, jnp.asarray(images(NETS[name].size)))
    assert expected.shape == logits.shape
    largest = np.abs(expected).max()
    assert largest > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=survey.limits(name).logits * largest)
