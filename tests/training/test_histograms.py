"""Histograms of parameters and gradients: every number is counted once, in the right bin; gradients are the step's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config import load, replace
from jaxft.reporting.events import Histogram
from jaxft.training.histograms import EDGES, Histograms, _histogram, _sums
from jaxft.training.setup import set_up
from jaxft.training.step import StepInputs, key_data, loss_of_arrays

pytest_plugins = ("tests.runs",)


def test_every_number_is_counted_once_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-9.9, 3.9, 5000)
    numbers = (sizes * rng.choice([-1, 1], 5000)).astype(np.float32)
    special = np.array([0.0, -0.0, 1e-12, -1e-30], np.float32)
    found = _histogram(jax.device_get(jax.jit(_sums)([jnp.asarray(numbers).reshape(50, 100), jnp.asarray(special)])))
    wanted, _ = np.histogram(np.concatenate([numbers, special]).astype(np.float64), EDGES)
    assert found.counts.sum() == 5004
    assert np.abs(np.cumsum(found.counts) - np.cumsum(wanted)).max() <= 2  # float32 at the edges
    assert found.counts[len(found.counts) // 2] == 4
    assert (found.least, found.most) == (numbers.min(), numbers.max())
    beyond = _histogram(jax.device_get(_sums([jnp.array([1e30, -1e30])])))
    assert (beyond.counts[0], beyond.counts[-1]) == (1, 1)


def test_they_are_of_each_group_and_come_when_the_next_are_due(two_phases: Path) -> None:
    setup = set_up(replace(load(two_phases), {"histograms": 2}))
    stage, told = setup.stages[0], list[tuple[int, dict[str, Histogram]]]()
    state = setup.first_state(stage, None)
    with setup.batches() as batches:
        batch = setup.layout.batch(next(batches))
    reporter: Any = SimpleNamespace(
        histograms=lambda step, found: told.append((step, found)), doing=lambda what: jax.named_scope("nothing")
    )
    histograms = Histograms(setup, reporter)
    inputs = StepInputs(key_data(0), stage.numbers(0))
    for step in range(4):
        histograms(stage, state, step, batch, inputs)
        assert [at for at, _ in told] == ([2] if step == 3 else [])
    histograms.close()
    assert [at for at, _ in told] == [2, 4]
    (label,) = {group.label for group in stage.groups.trained_groups}
    found = told[0][1]
    assert found.keys() == {f"parameters/{label}", f"gradients/{label}"}
    trained = {path: state.params[path] for path in stage.groups.trained}
    frozen = {path: value for path, value in state.params.items() if path not in trained}
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(inputs.key)), 0)
    loss = loss_of_arrays(setup.template(stage), setup.loss)
    grads, _ = jax.grad(loss, has_aux=True)(trained, frozen, state.stats, batch, key)
    for name, arrays in (("parameters", trained), ("gradients", grads)):
        numbers = np.concatenate([np.asarray(array).reshape(-1) for array in arrays.values()])
        histogram = found[f"{name}/{label}"]
        assert histogram.counts.sum() == numbers.size
        np.testing.assert_allclose(histogram.squares, (numbers**2).sum(), rtol=1e-4)
        np.testing.assert_allclose(histogram.total, numbers.sum(), rtol=1e-3, atol=1e-6)
