"""The best of very many candidates are those of a plain sort, equal ones in the same order."""

import jax
import numpy as np
import pytest

from jaxft.detection import top_k as module
from jaxft.detection.top_k import top_k


@pytest.mark.parametrize("kind", ["all differ", "few values", "most below a threshold"])
def test_as_a_sort(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 1000)
    scores = np.random.default_rng(0).normal(size=(2, 1_003)).astype(np.float32)
    if kind == "few values":
        scores = np.round(scores)
    if kind == "most below a threshold":
        scores = np.where(scores > 2, scores, -1)
    jaxpr = str(jax.make_jaxpr(lambda x: top_k(x, 20))(scores))
    assert jaxpr.count("top_k") == 2
    for found, expected in zip(jax.jit(lambda x: top_k(x, 20))(scores), jax.lax.top_k(scores, 20), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_few_candidates_are_sorted_at_once() -> None:
    jaxpr = str(jax.make_jaxpr(lambda x: top_k(x, 20))(np.zeros((2, 1_003), np.float32)))
    assert jaxpr.count("top_k") == 1
