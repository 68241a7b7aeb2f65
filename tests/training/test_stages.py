"""From phase to phase: what the optimizer knows comes along; the moving average; memory of accumulation."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import Array

from jaxft.config import Config, Optimizer, Phase, Rule, Schedule
from jaxft.models.layers import Linear
from jaxft.models.paths import values
from jaxft.training import layout as layouts
from jaxft.training.layout import device_layout, one_device
from jaxft.training.stages import Stage, lay_out
from jaxft.training.state import TrainState, enter, initial_state
from jaxft.training.step import StepInputs, key_data, train_step

START = {"body.kernel": (3, 4), "body.bias": (4,), "head.kernel": (4, 2), "head.bias": (2,)}
HEAD = Phase(epochs=1, rules=(Rule(pattern="head"), Rule(pattern="*", frozen=True)))
EVERYTHING = Phase(epochs=1, lr_scale=0.5, rules=(Rule(pattern="*"),))
APART = Phase(epochs=1, rules=(Rule(pattern="head.bias", lr_scale=2.0), Rule(pattern="*")))
OPTIMIZERS = {
    "momentum": (Optimizer(name="sgd", momentum=0.9, learning_rate=0.05), torch.optim.SGD, {"momentum": 0.9}),
    "adam": (Optimizer(name="adam", learning_rate=0.05), torch.optim.Adam, {}),
    "adamw": (Optimizer(name="adamw", learning_rate=0.05, weight_decay=0.1), torch.optim.AdamW, {"weight_decay": 0.1}),
}
STEPS = 4  # of each phase


class TwoLayers(nnx.Module):
    """Two linear layers under the names of `START`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.body = Linear(3, 4, rngs=rngs)
        self.head = Linear(4, 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(jnp.tanh(self.body(x)))


def loss(model: Any, batch: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    value = ((model(batch["x"]) - batch["y"]) ** 2).mean()
    return value, {"loss": value}


def begin(stage: Stage, arrays: dict[str, np.ndarray], *, ema: bool = False) -> TrainState:
    return initial_state(stage, one_device().place(arrays), {}, one_device(), ema=ema)


def batches(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(6, 3)), "y": rng.normal(size=(6, 2))} for _ in range(count)]


def run(stages: list[Stage], arrays: dict[str, np.ndarray], data: list[dict[str, np.ndarray]]) -> TrainState:
    """All stages, one after the other."""
    model = nnx.eval_shape(lambda: TwoLayers(nnx.Rngs(0)))
    state, before = begin(stages[0], arrays), stages[0]
    for stage in stages:
        if stage is not before:
            state = enter(stage, before, state, one_device())
        function = jax.jit(train_step(model, loss, stage.groups.trained, stage.chain))
        for step in range(stage.first, stage.last):
            state, _ = function(state, data[step], StepInputs(key_data(0), stage.numbers(step)))
        before = stage
    return state


@pytest.mark.parametrize(
    "phases", [(HEAD, EVERYTHING), (HEAD, APART, EVERYTHING), (EVERYTHING, HEAD, EVERYTHING)], ids=["2", "3", "back"]
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_phases_equal_one_optimizer_of_pytorch_whose_groups_change(name: str, phases: tuple[Phase, ...]) -> None:
    settings, kind, options = OPTIMIZERS[name]
    rng = np.random.default_rng(1)
    arrays = {path: rng.normal(size=shape) for path, shape in START.items()}
    stages = lay_out(Config(optimizer=settings, phases=phases), START, steps_per_epoch=STEPS)
    data = batches(STEPS * len(phases))

    theirs = {path: torch.tensor(value, requires_grad=True) for path, value in arrays.items()}
    optimizer: torch.optim.Optimizer = kind([{"params": [tensor]} for tensor in theirs.values()], lr=0.0, **options)
    for stage in stages:
        for group, path in zip(optimizer.param_groups, theirs, strict=True):
            trained = path in stage.groups.trained
            theirs[path].requires_grad_(trained)
            group["lr"] = float(stage.learning_rates[stage.groups.labels[path]][0]) if trained else 0.0
            if not trained:  # what is frozen begins anew, as a new optimizer of PyTorch would have it
                optimizer.state.pop(theirs[path], None)
                theirs[path].grad = None
        for batch in data[stage.first : stage.last]:
            optimizer.zero_grad()
            hidden = torch.tanh(torch.tensor(batch["x"]) @ theirs["body.kernel"] + theirs["body.bias"])
            out = hidden @ theirs["head.kernel"] + theirs["head.bias"]
            ((out - torch.tensor(batch["y"])) ** 2).mean().backward()
            optimizer.step()

    with jax.enable_x64(True):
        state = run(stages, arrays, data)
    for path, value in state.params.items():
        np.testing.assert_allclose(np.asarray(value), theirs[path].detach().numpy(), rtol=1e-9, atol=1e-12)


def test_parameters_of_one_group_have_been_trained_equally_long() -> None:
    _, stage = lay_out(Config(phases=(HEAD, EVERYTHING)), START, steps_per_epoch=STEPS)
    labels = {path: stage.groups.labels[path] for path in START}
    assert labels["head.kernel"] == labels["head.bias"] == "0: * (since phase 1)"
    assert labels["body.kernel"] == labels["body.bias"] == "0: * (since phase 2)"
    assert {group.label for group in stage.groups.trained_groups} == set(labels.values())


def test_the_first_moments_of_what_stays_trained_are_not_touched() -> None:
    stages = lay_out(Config(optimizer=Optimizer(name="adam"), phases=(HEAD, EVERYTHING)), START, STEPS)
    rng = np.random.default_rng(1)
    arrays = {path: rng.normal(size=shape).astype(np.float32) for path, shape in START.items()}
    before = run(stages[:1], arrays, batches(STEPS))
    after = enter(stages[1], stages[0], before, one_device())
    old, new = before.opt_state.inner_states["0: head"], after.opt_state.inner_states  # type: ignore[attr-defined]
    kept, fresh = new["0: * (since phase 1)"].inner_state[1], new["0: * (since phase 2)"].inner_state[1]
    assert kept.mu["head.kernel"] is old.inner_state[1].mu["head.kernel"]
    assert (int(kept.count), int(fresh.count)) == (STEPS, 0)
    assert not np.any(fresh.mu["body.kernel"])


# The moving average


def test_the_moving_average_is_that_of_pytorch() -> None:
    (stage,) = lay_out(Config(optimizer=Optimizer(learning_rate=0.1), phases=(HEAD,)), START, steps_per_epoch=5)
    rng = np.random.default_rng(1)
    arrays = {path: rng.normal(size=shape).astype(np.float32) for path, shape in START.items()}
    model = nnx.eval_shape(lambda: TwoLayers(nnx.Rngs(0)))
    function = jax.jit(train_step(model, loss, stage.groups.trained, stage.chain))
    state = begin(stage, arrays, ema=True)
    module = torch.nn.ParameterDict(
        {path.replace(".", "_"): torch.nn.Parameter(torch.tensor(value)) for path, value in arrays.items()}
    )
    averaged = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.8), use_buffers=False
    )
    averaged.update_parameters(module)  # the first call copies
    for step, batch in enumerate(batches(5)):
        state, _ = function(state, batch, StepInputs(key_data(0), stage.numbers(step), 1 - 0.8))
        with torch.no_grad():
            for path, value in state.params.items():
                module[path.replace(".", "_")].copy_(torch.tensor(np.asarray(value)))
        averaged.update_parameters(module)
    assert state.ema is not None
    for path, value in state.ema.items():
        theirs = averaged.module[path.replace(".", "_")].detach().numpy()  # type: ignore[index]
        np.testing.assert_allclose(value, theirs, rtol=1e-5, atol=1e-6, err_msg=path)
        assert path.startswith("body") or not np.allclose(value, state.params[path])
    assert state.evaluated["head.kernel"] is state.ema["head.kernel"]


# Memory


class Wide(nnx.Module):
    """Most of its memory is its parameters."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc1, self.fc2 = Linear(64, 2048, rngs=rngs), Linear(2048, 2048, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.fc2(nnx.relu(self.fc1(x)))


@pytest.mark.parametrize("rows", [64, 4096], ids=["few examples", "many examples"])
def test_memory_falls_with_accumulation(rows: int) -> None:
    def temporaries(parts: int) -> int:
        model = nnx.eval_shape(lambda: Wide(nnx.Rngs(0)))
        shapes = {path: tuple(value.shape) for path, value in values(model).items()}
        (stage,) = lay_out(Config(phases=(EVERYTHING,)), shapes, steps_per_epoch=5)
        arrays = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
        state = begin(stage, arrays)
        batch = {"x": np.zeros((rows, 64), np.float32), "y": np.zeros((rows, 2048), np.float32)}
        step = jax.jit(train_step(model, loss, stage.groups.trained, stage.chain, parts=parts), donate_argnums=0)
        compiled = step.lower(state, batch, StepInputs(key_data(0), stage.numbers(0))).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)

    parameters = 4 * (64 * 2048 + 2048 * 2048)
    whole, eight, thirty_two = (temporaries(parts) for parts in (1, 8, 32))
    # A second gradient is summed up, never one a part.
    assert thirty_two <= eight < whole + 1.5 * parameters
    if rows == 4096:
        assert thirty_two < whole / 2


def test_a_layout_cuts_what_is_made_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "SMALLEST", 1)
    (stage,) = lay_out(Config(optimizer=Optimizer(momentum=0.9), phases=(EVERYTHING,)), START, steps_per_epoch=5)
    layout = device_layout(8, fsdp=2)
    arrays = {path: np.ones(shape, np.float32) for path, shape in START.items()}
    state = initial_state(stage, layout.place(arrays), {}, layout, ema=True)
    for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state)):
        if leaf.ndim:
            assert {shard.data.size for shard in leaf.addressable_shards} == {leaf.size // 2}


def test_rates_are_the_schedules() -> None:
    phase = Phase(
        epochs=2, schedule=Schedule(decay="cosine"), rules=(Rule(pattern="head", lr_scale=3.0), Rule(pattern="*"))
    )
    first, second = lay_out(Config(phases=(phase, EVERYTHING)), START, steps_per_epoch=5)
    assert (first.first, first.last, second.first, second.last) == (0, 10, 10, 15)
    rate = first.numbers(5)["learning_rate"]
    assert rate == {"0: head": pytest.approx(0.015), "1: *": pytest.approx(0.005)}
    assert first.highest_rate(5) == pytest.approx(0.015)
    assert second.highest_rate(14) == pytest.approx(0.005)
