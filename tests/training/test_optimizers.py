"""Optimizers beside PyTorch's, rates by depth, what is spared the decay, and moments in bfloat16."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxft.config import Config, Optimizer, Phase
from jaxft.training.optim import parameter_groups
from jaxft.training.stages import lay_out
from tests.training.test_optim import OPTIMIZERS, RULES, START, loss


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (Optimizer(name="lamb", eps=1e-6), partial(optax.lamb, eps=1e-6)),
        (Optimizer(name="lars", momentum=0.9, trust=0.01), partial(optax.lars, momentum=0.9, trust_coefficient=0.01)),
        (Optimizer(name="lion", betas=(0.9, 0.99)), optax.lion),
    ],
)
def test_others_are_optax_own(settings: Optimizer, theirs: Any) -> None:
    """On all parameters at one rate with one weight decay."""
    settings = dataclasses.replace(settings, learning_rate=0.02, weight_decay=0.1)
    (stage,) = lay_out(Config(optimizer=settings, phases=(Phase(epochs=1),)), START, 5)
    other = theirs(0.02, weight_decay=0.1)
    rng = np.random.default_rng(0)
    params = {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in START.items()}
    ends = [params, params]
    states = [stage.chain(stage.numbers(0)).init(params), other.init(params)]
    for step in range(5):
        grads = {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in START.items()}
        for index, optimizer in enumerate((stage.chain(stage.numbers(step)), other)):
            updates, states[index] = optimizer.update(grads, states[index], ends[index])
            ends[index] = optax.apply_updates(ends[index], updates)
    for path, value in ends[0].items():
        assert float(jnp.abs(value - params[path]).max()) > 1e-4
        np.testing.assert_allclose(value, ends[1][path], rtol=1e-6, atol=1e-7, err_msg=path)


def test_adafactor_factors_the_axes_that_pytorch_does() -> None:
    shape, rng = (3, 2, 4, 5), np.random.default_rng(0)  # HWIO
    with jax.enable_x64(True):
        (stage,) = lay_out(Config(optimizer=Optimizer(name="adafactor", learning_rate=0.3)), {"kernel": shape}, 1)
        params = {"kernel": jnp.asarray(rng.normal(size=shape))}
        theirs = torch.tensor(np.array(params["kernel"]).transpose(3, 2, 0, 1), requires_grad=True)
        other, state = torch.optim.Adafactor([theirs], lr=0.3), stage.chain(stage.numbers(0)).init(params)
        assert sorted(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == [1, 40, 60]
        for _ in range(3):
            grad = rng.normal(size=shape)
            theirs.grad = torch.tensor(grad.transpose(3, 2, 0, 1))
            other.step()
            updates, state = stage.chain(stage.numbers(0)).update({"kernel": jnp.asarray(grad)}, state, params)
            params = dict(optax.apply_updates(params, updates))
        np.testing.assert_allclose(params["kernel"], theirs.detach().numpy().transpose(2, 3, 1, 0), rtol=1e-9)


def test_rates_fall_towards_the_input() -> None:
    depths = {path: {"body": 1, "still": 2, "head": 3}[path.partition(".")[0]] for path in START}
    settings = Optimizer(learning_rate=0.1, layer_decay=0.5)
    groups = parameter_groups(START, settings, Phase(rules=RULES), 3, depths)
    rates = {path: float(groups.group(path).lr(0)) for path in START if path in groups.trained}
    expected = {"head.kernel": 1.0, "head.bias": 1.0, "body.kernel": 0.1 / 4, "body.bias": 0.1 / 4}
    assert rates == pytest.approx(expected)
    assert groups.labels["still.kernel"] == "frozen"


def test_position_tables_are_spared_by_a_switch_of_their_own() -> None:
    shapes = {"class_token": (1, 1, 4), "encoder.pos_embedding": (1, 5, 4), "attn.relative_position_bias_table": (9, 2)}
    shapes |= {"fc.kernel": (4, 2), "fc.bias": (2,)}
    settings = Optimizer(weight_decay=0.1, decay_positions=False)
    groups = parameter_groups(shapes, settings, Phase(), 3)
    assert {path for path in shapes if groups.group(path).weight_decay} == {"fc.kernel", "fc.bias"}


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam", "adamw"])
def test_first_moments_in_bfloat16_take_half_the_memory(name: str) -> None:
    """They are rounded, and no more than that: the steps are those of float32 to 8 significant bits."""
    ends = {}
    for moments in ("float32", "bfloat16"):
        settings = dataclasses.replace(OPTIMIZERS[name][0], learning_rate=1e-4, moments=moments)
        config = Config(optimizer=settings, phases=(Phase(rules=RULES),))
        (stage,) = lay_out(config, START, steps_per_epoch=5)
        rng = np.random.default_rng(0)
        params = {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in START.items()}
        frozen = {path: params.pop(path) for path in list(params) if stage.groups.group(path).frozen}
        state, begin = stage.chain(stage.numbers(0)).init(params), params
        kinds = [str(leaf.dtype) for leaf in jax.tree.leaves(state) if leaf.ndim]
        assert kinds.count("bfloat16") == (len(params) if moments == "bfloat16" else 0)
        for step in range(5):
            target = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
            grads = jax.grad(lambda params, target, frozen=frozen: loss(params | frozen, target))(params, target)
            updates, state = stage.chain(stage.numbers(step)).update(grads, state, params)
            params = optax.apply_updates(params, updates)
        assert [str(leaf.dtype) for leaf in jax.tree.leaves(state) if leaf.ndim] == kinds
        assert all(value.dtype == jnp.float32 for value in params.values())
        ends[moments] = {path: params[path] - begin[path] for path in params}
    for path, moved in ends["float32"].items():
        apart = float(jnp.abs(moved - ends["bfloat16"][path]).max())
        assert 0 < apart < 2e-2 * float(jnp.abs(moved).max()), path
