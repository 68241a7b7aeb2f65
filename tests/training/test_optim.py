"""Rules, schedules and optimizers, the last two against PyTorch itself."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from jaxft.config import Config, Optimizer, Phase, Rule, Schedule
from jaxft.errors import UserError
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import modules, values
from jaxft.training.optim import ParameterGroups, optimizer_numbers, parameter_groups, set_modes, transformation
from jaxft.training.schedules import schedule, tabulated, warmup_steps
from jaxft.training.stages import lay_out
from tests.small import Small

SHAPES = {
    "conv1.kernel": (3, 3, 3, 4),
    "bn1.scale": (4,),
    "bn1.bias": (4,),
    "layer1.0.conv1.kernel": (3, 3, 4, 4),
    "layer1.0.bn1.scale": (4,),
    "layer2.0.conv1.kernel": (1, 1, 4, 8),
    "fc.kernel": (8, 2),
    "fc.bias": (2,),
}


def made(*rules: Rule, optimizer: Optimizer | None = None, **phase: Any) -> ParameterGroups:
    return parameter_groups(SHAPES, optimizer or Optimizer(), Phase(rules=rules, **phase), steps_per_epoch=4)


# Rules


def test_the_first_rule_that_matches_counts() -> None:
    groups = made(
        Rule(pattern="fc.bias", lr_scale=7),
        Rule(pattern="fc", lr_scale=5),
        Rule(pattern="*.bn1", lr_scale=3),
        Rule(pattern="*"),
    )
    rates = {path: float(groups.group(path).lr(0)) / 0.01 for path in SHAPES}
    wanted = dict.fromkeys(SHAPES, 1.0) | {"fc.bias": 7.0, "fc.kernel": 5.0, "layer1.0.bn1.scale": 3.0}
    assert rates == pytest.approx(wanted)  # bn1 at the top has no dot before it, so `*.bn1` leaves it to `*`


def test_every_parameter_is_covered_once() -> None:
    groups = made(Rule(pattern="layer[12]", frozen=True), Rule(pattern="*"))
    assert groups.labels.keys() == SHAPES.keys()
    assert set(groups.labels.values()) == groups.groups.keys()
    assert {path for path in SHAPES if groups.group(path).frozen} == {path for path in SHAPES if "layer" in path}


@pytest.mark.parametrize(
    ("rules", "parts"),
    [
        ((Rule(pattern="head"), Rule(pattern="*")), ["'head'", "parts are bn1, conv1, fc, layer1, layer2"]),
        ((Rule(pattern="*"), Rule(pattern="fc")), ["'fc' is the first match of no parameter"]),
        ((Rule(pattern="fc"), Rule(pattern="layer?")), ["no rule matches conv1.kernel", "no rule matches bn1.bias"]),
        ((Rule(pattern="fd"), Rule(pattern="fc")), ["'fd'", "no rule matches conv1.kernel"]),
        ((Rule(pattern="fc", frozen=True), Rule(pattern="*", frozen=True)), ["nothing would be trained"]),
    ],
)
def test_rules_that_do_not_fit_are_named(rules: tuple[Rule, ...], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        made(*rules)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("spared", [True, False])
def test_biases_and_norms_are_spared_the_decay_by_one_switch(spared: bool) -> None:
    settings = Optimizer(weight_decay=0.1, decay_bias_and_norm=not spared)
    groups = made(Rule(pattern="fc", weight_decay_scale=2.0), Rule(pattern="*"), optimizer=settings)
    for path, shape in SHAPES.items():
        full = 0.2 if path.startswith("fc") else 0.1
        assert groups.group(path).weight_decay == pytest.approx(0.0 if spared and len(shape) == 1 else full)


def test_rates_multiply_and_a_rule_may_have_its_own_schedule() -> None:
    own = Schedule(decay="multistep", unit="step", milestones=(2,), gamma=0.5)
    groups = made(
        Rule(pattern="fc", lr_scale=10, schedule=own),
        Rule(pattern="*"),
        optimizer=Optimizer(learning_rate=0.2),
        lr_scale=0.5,
    )
    assert [float(groups.group("fc.kernel").lr(step)) for step in range(4)] == pytest.approx([1.0, 1.0, 0.5, 0.5])
    assert [float(groups.group("conv1.kernel").lr(step)) for step in range(4)] == pytest.approx([0.1] * 4)


# Schedules


def torch_rates(steps: int, *makers: Callable[[Any], Any]) -> list[float]:
    """The learning rate of each step by PyTorch's schedulers, all stepped together."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedulers = [maker(optimizer) for maker in makers]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


def linear(factor: float, iterations: int) -> Callable[[Any], Any]:
    return lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, factor, total_iters=iterations)


def multistep(milestones: list[int], gamma: float) -> Callable[[Any], Any]:
    return lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma)


def cosine(steps: int, final: float = 0.0) -> Callable[[Any], Any]:
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.1 * final)


SCHEDULES = {
    "constant": (Schedule(), [], 30),
    "constant with warm-up": (Schedule(unit="step", warmup=7, warmup_factor=0.01), [linear(0.01, 7)], 30),
    "multistep": (
        Schedule(decay="multistep", unit="step", milestones=(5, 11), gamma=0.3),
        [multistep([5, 11], 0.3)],
        30,
    ),
    "multistep in epochs with warm-up": (
        Schedule(decay="multistep", milestones=(2, 4.5), warmup=0.5, warmup_factor=0.001),
        [linear(0.001, 5), multistep([20, 45], 0.1)],
        60,
    ),
    "a milestone inside the warm-up": (
        Schedule(decay="multistep", unit="step", milestones=(3, 12), warmup=8, warmup_factor=0.1),
        [linear(0.1, 8), multistep([3, 12], 0.1)],
        30,
    ),
    "cosine": (Schedule(decay="cosine"), [cosine(30)], 30),
    "cosine to a tenth": (Schedule(decay="cosine", final=0.1), [cosine(50, 0.1)], 50),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_pytorch_at_every_step(name: str) -> None:
    settings, makers, steps = SCHEDULES[name]
    theirs = torch_rates(steps, *makers)
    ours = schedule(settings, 0.1, steps, steps_per_epoch=10)
    np.testing.assert_allclose([float(ours(step)) for step in range(steps)], theirs, rtol=0, atol=1e-8)  # float32
    with jax.enable_x64(True):
        wide = schedule(settings, 0.1, steps, steps_per_epoch=10)
        np.testing.assert_allclose([float(wide(step)) for step in range(steps)], theirs, rtol=1e-9)


def test_cosine_starts_where_the_warm_up_ends() -> None:
    ours = schedule(Schedule(decay="cosine", unit="step", warmup=5, warmup_factor=0.2), 0.1, 25, 10)
    rates = [float(ours(step)) for step in range(25)]
    np.testing.assert_allclose(rates[:5], [0.1 * (0.2 + 0.8 * step / 5) for step in range(5)], rtol=1e-6)
    np.testing.assert_allclose(rates[5:], torch_rates(20, cosine(20)), rtol=0, atol=1e-8)


def test_a_phase_has_nothing_to_inherit() -> None:
    with pytest.raises(UserError, match="no schedule to inherit"):
        schedule(Schedule(decay="inherit"), 0.1, 10, 10)


def test_onecycle_rises_to_its_peak_and_falls_to_nothing() -> None:
    ours = schedule(Schedule(decay="onecycle", peak=0.3), 0.1, 40, 10)
    rates = [float(ours(step)) for step in range(40)]
    assert np.argmax(rates) == 12
    assert rates[12] == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.1 / 25)
    assert float(ours(40)) < rates[0] / 1000
    assert np.all(np.diff(rates[:13]) > 0)
    assert np.all(np.diff(rates[12:]) < 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_all_steps_of_a_schedule_at_once(name: str) -> None:
    settings, _, steps = SCHEDULES[name]
    ours = schedule(settings, 0.1, steps, 10)
    with jax.enable_x64(True):
        one_by_one = [float(ours(step)) for step in range(steps)]
    np.testing.assert_allclose(tabulated(ours, steps), one_by_one, rtol=1e-12)


@pytest.mark.parametrize(("unit", "warmup", "steps"), [("step", 7, 7), ("epoch", 0.5, 5), ("epoch", 2, 20)])
def test_warm_up_counts_in_its_unit(unit: Any, warmup: float, steps: int) -> None:
    settings = dataclasses.replace(Schedule(), unit=unit, warmup=warmup)
    assert warmup_steps(settings, steps_per_epoch=10) == steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Schedule(warmup=20, unit="step"), "warm-up of 20 steps does not fit a phase of 20"),
        (Schedule(milestones=(3,)), "belong to 'multistep'"),
        (Schedule(decay="multistep"), "belong to 'multistep'"),
        (Schedule(decay="onecycle", warmup=1, unit="step"), "warms up by itself"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(settings: Schedule, message: str) -> None:
    with pytest.raises(UserError, match=message):
        schedule(settings, 0.1, 20, 10)


# Optimizers

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
RADAM, RMSPROP = torch.optim.RAdam, torch.optim.RMSprop
OPTIMIZERS: dict[str, tuple[Optimizer, Any, dict[str, Any]]] = {
    "sgd": (Optimizer(name="sgd"), SGD, {}),
    "momentum": (Optimizer(name="sgd", momentum=0.9), SGD, {"momentum": 0.9}),
    "nesterov": (Optimizer(name="sgd", momentum=0.8, nesterov=True), SGD, {"momentum": 0.8, "nesterov": True}),
    "adam": (Optimizer(name="adam", betas=(0.8, 0.95), eps=1e-6), ADAM, {"betas": (0.8, 0.95), "eps": 1e-6}),
    "adamw": (Optimizer(name="adamw", betas=(0.8, 0.95), eps=1e-6), ADAMW, {"betas": (0.8, 0.95), "eps": 1e-6}),
    "radam": (Optimizer(name="radam", betas=(0.8, 0.95), eps=1e-6), RADAM, {"betas": (0.8, 0.95), "eps": 1e-6}),
    "adafactor": (Optimizer(name="adafactor"), torch.optim.Adafactor, {}),
    "rmsprop": (Optimizer(name="rmsprop", alpha=0.9, eps=1e-6), RMSPROP, {"alpha": 0.9, "eps": 1e-6}),
    "rmsprop, momentum": (
        Optimizer(name="rmsprop", alpha=0.9, eps=1e-6, momentum=0.8),
        RMSPROP,
        {"alpha": 0.9, "eps": 1e-6, "momentum": 0.8},
    ),
}
RULES = (
    Rule(pattern="head", lr_scale=10.0, weight_decay_scale=0.5),
    Rule(pattern="still", frozen=True),
    Rule(pattern="*"),
)
START = {"body.kernel": (3, 4), "body.bias": (4,), "still.kernel": (2, 2), "head.kernel": (4, 2), "head.bias": (2,)}


def loss(params: Any, target: Any) -> Any:
    """Something smooth that couples all parameters, in either library."""
    hidden = target @ params["body.kernel"] + params["body.bias"][None]
    out = hidden @ params["head.kernel"] @ params["still.kernel"] + params["head.bias"][None]
    return (out**2).mean() + (hidden**3).mean()


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("spared", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_equal_pytorch(name: str, decay: float, spared: bool, clip: float | None) -> None:
    base, kind, options = OPTIMIZERS[name]
    settings = dataclasses.replace(
        base, learning_rate=0.02, weight_decay=decay, decay_bias_and_norm=not spared, clip_norm=clip
    )
    steps = 5
    falling = Schedule(decay="multistep", unit="step", milestones=(3,))
    rng = np.random.default_rng(0)
    begin = {path: rng.normal(size=shape) for path, shape in START.items()}
    targets = rng.normal(size=(steps, 6, 3))

    theirs = {path: torch.tensor(value, requires_grad="still" not in path) for path, value in begin.items()}

    def group(path: str) -> dict[str, Any]:
        head, flat = path.startswith("head"), theirs[path].ndim == 1
        part = 0.0 if spared and flat else decay * (0.5 if head else 1.0)
        return {"params": [theirs[path]], "lr": 0.2 if head else 0.02, "weight_decay": part}

    trained = [path for path in theirs if "still" not in path]
    optimizer = kind([group(path) for path in trained], **options)
    scheduler = multistep([3], 0.1)(optimizer)
    for target in targets:
        optimizer.zero_grad()
        loss(theirs, torch.tensor(target)).backward()
        if clip is not None:
            norm = torch.nn.utils.clip_grad_norm_([theirs[path] for path in trained], clip)
            assert norm > clip
            for path in trained:  # PyTorch adds 1e-6 to the norm, which optax does not; taken back to compare the rest
                grad = theirs[path].grad
                assert grad is not None
                grad *= (norm + 1e-6) / norm
        optimizer.step()
        scheduler.step()

    with jax.enable_x64(True):
        config = Config(optimizer=settings, phases=(Phase(epochs=1, rules=RULES, schedule=falling),))
        (stage,) = lay_out(config, START, steps_per_epoch=steps)
        groups = stage.groups
        params = {path: jnp.asarray(value) for path, value in begin.items()}
        frozen = {path: params.pop(path) for path in list(params) if groups.group(path).frozen}
        state = stage.chain(stage.numbers(0)).init(params)
        for step, target in enumerate(targets):
            grads = jax.grad(lambda params, target: loss(params | frozen, target))(params, target)
            updates, state = stage.chain(stage.numbers(step)).update(grads, state, params)
            params = optax.apply_updates(params, updates)
        for path, value in params.items():
            assert value.dtype == jnp.float64
            expected = theirs[path].detach().numpy()
            assert np.abs(expected - begin[path]).max() > 1e-4, path
            np.testing.assert_allclose(np.asarray(value), expected, rtol=1e-9, atol=1e-9, err_msg=path)


def test_frozen_parts_get_zero_updates_and_no_state() -> None:
    settings = Optimizer(name="adam", learning_rate=0.1, weight_decay=0.1)
    groups = parameter_groups(START, settings, Phase(rules=RULES), steps_per_epoch=3)
    rates = {group.label: 0.1 for group in groups.trained_groups}
    ours = transformation(groups.labels, settings, optimizer_numbers(groups, settings) | {"learning_rate": rates})
    params = {path: jnp.ones(shape) for path, shape in START.items()}
    state = ours.init(params)
    updates, _ = ours.update(jax.tree.map(jnp.ones_like, params), state, params)
    for path, update in updates.items():
        assert bool((update == 0).all()) == path.startswith("still"), path
    assert not any(leaf.shape == START["still.kernel"] for leaf in jax.tree.leaves(state))
    moments = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(moments) == sorted(2 * [shape for path, shape in START.items() if "still" not in path])


# Modes


@pytest.mark.parametrize(
    ("rules", "batch_norm", "running"),
    [
        ((Rule(pattern="*"),), "batch", set()),
        ((Rule(pattern="bn1", frozen=True), Rule(pattern="*")), "batch", {"bn1"}),
        ((Rule(pattern="fc"), Rule(pattern="*", frozen=True)), "batch", {"bn1", "bn2"}),
        ((Rule(pattern="bn1", batch_norm="running"), Rule(pattern="*")), "batch", {"bn1"}),
        ((Rule(pattern="bn1", batch_norm="batch"), Rule(pattern="*")), "running", {"bn2"}),
        ((Rule(pattern="bn1", frozen=True, batch_norm="batch"), Rule(pattern="*")), "batch", set()),
        ((Rule(pattern="*"),), "running", {"bn1", "bn2"}),
    ],
)
def test_modes_of_batch_norm(rules: tuple[Rule, ...], batch_norm: str, running: set[str]) -> None:
    model = Small(3, rngs=nnx.Rngs(0))
    shapes = {path: value.shape for path, value in values(model, nnx.Param).items()}
    model.eval()
    set_modes(model, parameter_groups(shapes, Optimizer(), Phase(rules=rules), 3), batch_norm)
    assert not model.dropout.deterministic
    for again in (lambda: None, model.eval, model.train):
        again()
        found = {path for path, module in modules(model) if isinstance(module, BatchNorm) and module.running_only}
        assert found == running
