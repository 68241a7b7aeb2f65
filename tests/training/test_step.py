"""One step: what changes, what must not, and that it is compiled once."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import Array

from jaxft.config import Classification, Config, Optimizer, Phase, Rule
from jaxft.models.layers import BatchNorm, Outputs
from jaxft.models.layers.window_attention import CosineWindowAttention, WindowAttention
from jaxft.models.paths import modules, values
from jaxft.tasks.classification.task import ClassificationTask
from jaxft.tasks.images import Images
from jaxft.training.layout import Layout, one_device
from jaxft.training.optim import set_modes
from jaxft.training.stages import Stage, lay_out
from jaxft.training.state import TrainState, initial_state
from jaxft.training.step import StepInputs, key_data, predict_step, reseed, train_step
from tests.small import Small

ROWS, CLASSES = 8, 3
FIELDS = Classification(images=Images(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
TASK = ClassificationTask(FIELDS)
MOMENTUM = Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=0.01)
HEAD = (Rule(pattern="fc"), Rule(pattern="*", frozen=True))
ALL = (Rule(pattern="*"),)


def batch(seed: int = 0, rows: int = ROWS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, 16, 16, 3)).astype(np.uint8)
    return {"image": images, "label": rng.integers(0, CLASSES, rows).astype(np.int32)}


def small(dropout: float = 0.0) -> Small:
    """The small network with statistics that are not the initial ones."""
    model = Small(CLASSES, dropout=dropout, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for _, module in modules(model):
        if isinstance(module, BatchNorm):
            module.mean[...] = jnp.asarray(rng.normal(size=8) * 0.1, jnp.float32)
            module.var[...] = jnp.asarray(rng.uniform(0.5, 2, 8), jnp.float32)
    return model


def prepared(
    model: nnx.Module,
    rules: tuple[Rule, ...] = ALL,
    optimizer: Optimizer = MOMENTUM,
    batch_norm: Any = "batch",
    layout: Layout | None = None,
    ema: bool = False,
) -> tuple[TrainState, Stage]:
    """The state and the stage at the start of a run of one phase."""
    phase = Phase(rules=rules, batch_norm=batch_norm)
    shapes = {path: value.shape for path, value in values(model, nnx.Param).items()}
    (stage,) = lay_out(Config(optimizer=optimizer, phases=(phase,)), shapes, steps_per_epoch=10)
    set_modes(model, stage.groups, stage.batch_norm)
    layout = layout or one_device()
    params, stats = (
        layout.place({path: np.asarray(value) for path, value in values(model, kind).items()})
        for kind in (nnx.Param, nnx.BatchStat)
    )
    return initial_state(stage, params, stats, layout, ema=ema), stage


def step_function(
    model: nnx.Module, stage: Stage, task: Any = TASK, precision: str = "float32"
) -> Callable[[TrainState, Any, StepInputs], tuple[TrainState, dict[str, Array]]]:
    return train_step(
        model, task.loss, stage.groups.trained, stage.chain, parts=stage.optimizer.accumulate, precision=precision
    )


def stepped(
    model: nnx.Module,
    batches: list[dict[str, np.ndarray]],
    rules: tuple[Rule, ...] = ALL,
    optimizer: Optimizer = MOMENTUM,
    batch_norm: str = "batch",
    task: Any = TASK,
    seed: int = 0,
    precision: str = "float32",
    ema_decay: float | None = None,
) -> tuple[TrainState, list[dict[str, Array]]]:
    """The state after one step a batch, and the metrics of each."""
    state, stage = prepared(model, rules, optimizer, batch_norm, ema=ema_decay is not None)
    momentum = 0.0 if ema_decay is None else 1 - ema_decay
    function = jax.jit(step_function(model, stage, task, precision))
    metrics = []
    for step, one in enumerate(batches):
        state, measured = function(state, one, StepInputs(key_data(seed), stage.numbers(step), momentum))
        metrics.append(measured)
    return state, metrics


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys()
    for path, value in one.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(other[path]), err_msg=path)


def assert_close(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for path, value in one.items():
        np.testing.assert_allclose(np.asarray(value), np.asarray(other[path]), tolerance, tolerance, err_msg=path)


# What changes


def test_a_step_changes_every_parameter_and_statistic() -> None:
    model = small()
    before = values(model)
    state, _ = stepped(model, [batch()])
    assert state.model.keys() == before.keys()
    assert int(state.step) == 1
    for path, value in state.model.items():
        assert not np.array_equal(value, before[path]), path
    assert all(state.stats[f"{layer}.num_batches_tracked"] == 1 for layer in ("bn1", "bn2"))


@pytest.mark.parametrize("again", [False, True])
def test_nothing_frozen_changes_bit_for_bit(again: bool) -> None:
    model = small()
    before = values(model)
    state, stage = prepared(model, HEAD)
    if again:
        model.eval()
        model.train()
    function = jax.jit(step_function(model, stage))
    for seed in range(3):
        state, _ = function(state, batch(seed), StepInputs(key_data(0), stage.numbers(seed)))
    assert stage.groups.trained == {"fc.kernel", "fc.bias"}
    kept = {path for path in before if not path.startswith("fc")}
    assert {"bn1.mean", "bn2.var", "bn1.num_batches_tracked"} <= kept
    assert_same({path: state.model[path] for path in kept}, {path: before[path] for path in kept})
    assert not np.array_equal(state.params["fc.kernel"], before["fc.kernel"])


def test_a_frozen_batch_norm_beside_one_that_is_not() -> None:
    model = small()
    before = values(model)
    state, _ = stepped(model, [batch()], (Rule(pattern="bn1", frozen=True), Rule(pattern="*")))
    same = {path for path in before if np.array_equal(state.model[path], before[path])}
    assert same == {path for path in before if path.startswith("bn1")}


def test_frozen_parameters_have_no_optimizer_state() -> None:
    state, stage = prepared(small(), HEAD)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    frozen = {value.shape for path, value in state.params.items() if path not in stage.groups.trained}
    assert shapes == {(8, CLASSES), (CLASSES,)}
    assert not shapes & frozen


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_optimizer_begins_as_optax_begins_it(name: Any) -> None:
    optimizer = Optimizer(name=name, momentum=0.9, weight_decay=0.1, clip_norm=1.0)
    state, stage = prepared(small(), optimizer=optimizer, ema=True)
    wanted = stage.chain(stage.numbers(0)).init(state.params)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(wanted)
    for found, leaf in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(wanted), strict=True):
        assert found.dtype == leaf.dtype
        np.testing.assert_array_equal(found, leaf)
    assert_same(state.ema or {}, state.params)
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state))]
    assert len(set(places)) == len(places)  # no memory of another leaf, since the step is given all of it


def test_batch_norm_running_trains_scales_and_keeps_statistics() -> None:
    model = small()
    before = values(model)
    state, _ = stepped(model, [batch()], batch_norm="running")
    assert_same(state.stats, {path: before[path] for path in state.stats})
    assert not np.array_equal(state.params["bn1.scale"], before["bn1.scale"])


# Loss, gradient, precision


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_pytorchs(smoothing: float) -> None:
    task = ClassificationTask(Classification(images=FIELDS.images, label_smoothing=smoothing))
    model = small()
    model.eval()
    data = batch()
    logits = np.asarray(task.logits(model, jnp.asarray(data["image"])))
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(data["label"], dtype=torch.int64), label_smoothing=smoothing
    )
    value, metrics = task.loss(model, jax.tree.map(jnp.asarray, data))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert float(metrics["accuracy"]) == pytest.approx((logits.argmax(-1) == data["label"]).mean())


def test_auxiliary_heads_add_their_losses_by_weight() -> None:
    logits = np.random.default_rng(0).standard_normal((3, ROWS, 5)).astype(np.float32)
    data = batch()
    target = torch.tensor(data["label"], dtype=torch.int64)
    main, first, second = (float(torch.nn.functional.cross_entropy(torch.tensor(each), target)) for each in logits)
    outputs = Outputs(jnp.asarray(logits[0]), (jnp.asarray(logits[1]), jnp.asarray(logits[2])), 0.3)
    value, metrics = TASK.loss(lambda images: outputs, jax.tree.map(jnp.asarray, data))
    assert float(value) == pytest.approx(main + 0.3 * (first + second), rel=1e-6)
    assert float(metrics["accuracy"]) == pytest.approx((logits[0].argmax(-1) == data["label"]).mean())


def test_predictions_are_pytorchs() -> None:
    model = small()
    model.eval()
    data = batch()
    found = jax.jit(predict_step(model, TASK.predict))(values(model), jax.tree.map(jnp.asarray, data))
    logits = torch.tensor(np.asarray(TASK.logits(model, jnp.asarray(data["image"]))))
    target = torch.tensor(data["label"], dtype=torch.int64)
    losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    np.testing.assert_allclose(found["loss"], losses.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["probabilities"], torch.softmax(logits, 1).numpy(), rtol=1e-5, atol=1e-6)
    evaluator = TASK.evaluator(SimpleNamespace(classes=range(logits.shape[1])))  # type: ignore[arg-type]
    for index in range(ROWS):
        evaluator.add(index, {name: np.asarray(array)[index] for name, array in found.items()})
    result = evaluator.result()
    assert result["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert result["accuracy"] == pytest.approx(float((logits.argmax(1) == target).double().mean()))


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_give_the_gradient_of_the_whole_batch(parts: int) -> None:
    whole, (metrics,) = stepped(small(), [batch()], batch_norm="running")
    settings = Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=0.01, accumulate=parts)
    cut, (cut_metrics,) = stepped(small(), [batch()], optimizer=settings, batch_norm="running")
    assert_close(cut.params, whole.params, 1e-6)
    assert float(cut_metrics["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)
    assert float(cut_metrics["accuracy"]) == pytest.approx(float(metrics["accuracy"]))
    assert int(cut.step) == 1


def test_accumulation_tracks_statistics_part_by_part() -> None:
    settings = Optimizer(learning_rate=0.1, accumulate=2)
    state, _ = stepped(small(), [batch()], optimizer=settings)
    assert int(state.stats["bn1.num_batches_tracked"]) == 2


def test_bfloat16_keeps_parameters_and_the_loss_near() -> None:
    task = ClassificationTask(FIELDS, "bfloat16")
    wide, (metrics,) = stepped(small(), [batch()])
    state, (narrow,) = stepped(small(), [batch()], task=task, precision="bfloat16")
    for path, value in state.model.items():
        assert value.dtype == wide.model[path].dtype, path
        assert value.dtype != jnp.bfloat16
    assert float(narrow["loss"]) != float(metrics["loss"])
    assert float(narrow["loss"]) == pytest.approx(float(metrics["loss"]), abs=0.02)
    assert_close(state.params, wide.params, 0.05)


def test_sums_and_results_stay_float32_under_bfloat16() -> None:
    model = small()
    state, stage = prepared(model, optimizer=Optimizer(name="adamw", accumulate=2), ema=True)
    step = step_function(model, stage, ClassificationTask(FIELDS, "bfloat16"), "bfloat16")
    traced = jax.jit(step).trace(state, batch(), StepInputs(key_data(0), stage.numbers(0)))
    (scan,) = (equation for equation in traced.jaxpr.eqns if equation.primitive.name == "scan")
    narrow = jnp.dtype("bfloat16")
    assert narrow in {var.aval.dtype for part in scan.params["jaxpr"].eqns for var in part.outvars}
    assert {var.aval.dtype for var in scan.outvars} <= {*map(jnp.dtype, ("f4", "i4"))}
    after, metrics = traced.out_info
    assert {leaf.dtype for leaf in jax.tree.leaves(metrics)} == {jnp.dtype("float32")}
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)


def test_evaluation_narrows_what_training_does() -> None:
    """Kernels alone: no constants (a float table, indices), no statistics, nothing that enters attention's logits."""
    options = {"window": 4, "shift": 0, "dropout": 0.0, "attention_dropout": 0.0}
    model = nnx.List(
        [CosineWindowAttention(8, 2, **options, rngs=nnx.Rngs(0)), WindowAttention(8, 2, **options, rngs=nnx.Rngs(0))]
    )
    seen: list[dict[str, str]] = []

    def look(model: Any, _: Any) -> tuple[Array, dict[str, Array]]:
        seen.append({path: str(array.dtype) for path, array in values(model).items()})
        return jnp.zeros(()), {"loss": jnp.zeros(())}

    state, stage = prepared(model)
    step = train_step(model, look, stage.groups.trained, stage.chain, precision="bfloat16")
    jax.eval_shape(step, state, batch(), StepInputs(key_data(0), stage.numbers(0)))
    jax.eval_shape(predict_step(model, lambda *given: look(*given)[1], "bfloat16"), state.model, batch())
    training, evaluation = seen
    assert training == evaluation
    assert {path.rpartition(".")[2] for path, dtype in training.items() if dtype == "bfloat16"} == {"kernel"}
    assert {training[f"0.{name}"] for name in ("relative_coords_table", "logit_scale")} == {"float32"}
    assert training["1.relative_position_bias_table"] == "float32"


# Numbers that are not finite


def poisoned(rows: int) -> dict[str, np.ndarray]:
    images = np.random.default_rng(9).normal(size=(rows, 16, 16, 3)).astype(np.float32)  # floats are taken as they are
    images[0, 0, 0, 0] = np.nan
    return {"image": images, "label": np.zeros(rows, np.int32)}


def test_after_a_nan_the_last_good_state_stays() -> None:
    model = small()
    state, stage = prepared(model, ema=True)
    step, inputs = jax.jit(step_function(model, stage)), StepInputs(key_data(0), stage.numbers(0), 0.1)
    good, _ = step(state, batch(), inputs)
    bad, metrics = step(good, poisoned(ROWS), inputs)
    assert bool(good.all_finite)
    assert not np.isfinite(float(metrics["loss"]))
    later, _ = step(bad, batch(1), inputs)
    for after in (bad, later):
        assert not bool(after.all_finite)
        assert_same(after.ema or {}, good.ema or {})
        assert int(after.step) == 1
        assert_same(after.model, good.model)
        for one, other in zip(jax.tree.leaves(after.opt_state), jax.tree.leaves(good.opt_state), strict=True):
            np.testing.assert_array_equal(one, other)


# Random streams


def test_random_streams_differ_between_layers_and_steps_and_are_repeatable() -> None:
    model = small(dropout=0.5)

    def draws(seed: int, step: int) -> list[bytes]:
        reseed(model, jax.random.fold_in(jax.random.key(seed), step))
        streams = (model.drop_path1.rngs, model.drop_path2.rngs, model.dropout.rngs)
        return [np.asarray(jax.random.bits(stream(), (16,))).tobytes() for stream in streams]

    seen = [draw for seed in (0, 1) for step in (0, 1) for draw in draws(seed, step)]
    assert len(set(seen)) == len(seen) == 12
    assert draws(1, 1) == seen[-3:]


def test_a_step_with_dropout_depends_on_seed_and_step_alone() -> None:
    def losses(seed: int, dropout: float = 0.5) -> list[float]:
        rate_of_nothing = Optimizer(learning_rate=1e-30)  # the same parameters at every step
        _, metrics = stepped(small(dropout), [batch()] * 3, optimizer=rate_of_nothing, batch_norm="running", seed=seed)
        return [float(one["loss"]) for one in metrics]

    assert len(set(losses(0, dropout=0.0))) == 1
    assert losses(0) == losses(0)
    assert len({*losses(0), *losses(1)}) == 6
