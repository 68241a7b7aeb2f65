"""Fresh models are drawn from the distributions that PyTorch draws them from, layer by layer."""

import math

import numpy as np
import pytest
from flax import nnx

from converters.rules import leaves
from jaxft.models import initialize_missing
from tests.models.classifiers.shallow import CLASSES, NETS

torch = pytest.importorskip("torch")
shallow_torch = pytest.importorskip("tests.models.classifiers.shallow_torch")


@pytest.mark.parametrize("name", NETS)
def test_initial_values_are_drawn_as_pytorch_draws_them(name: str) -> None:
    torch.manual_seed(0)
    theirs = shallow_torch.NETS[name]()
    parameters = {name for name, _ in theirs.named_parameters()}
    ours = nnx.eval_shape(lambda: NETS[name].build(CLASSES))
    initialize_missing(ours, lambda: NETS[name].build(CLASSES))
    arrays = {leaf.key: leaf.to_torch(np.asarray(leaf.variable[...])) for leaf in leaves(ours)}
    assert arrays.keys() == theirs.state_dict().keys()
    for key, tensor in theirs.state_dict().items():
        check(key, arrays[key], tensor.numpy(), drawn=key in parameters)


def check(key: str, ours: np.ndarray, theirs: np.ndarray, *, drawn: bool) -> None:
    """The same values where they are fixed; the same mean, deviation and kind of distribution where they are drawn."""
    deviation, count = theirs.std(), theirs.size
    if not drawn or deviation <= 1e-6 * np.abs(theirs).max():
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=key)
        return
    # Five per cent, and some standard errors of what two draws differ by.
    assert ours.std() == pytest.approx(deviation, rel=0.05 + 4 / math.sqrt(count)), key
    assert abs(ours.mean() - theirs.mean()) < 6 * deviation / math.sqrt(count), key
    if count < 200:
        return
    # The largest of a uniform draw lies at its bound, 1.73 deviations; that of a normal draw far out.
    uniform = np.abs(theirs).max() < 1.85 * deviation
    assert (np.abs(ours).max() < 1.85 * deviation) == uniform, key
    if uniform:
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.05), key
