"""Regression: PyTorch's losses, scikit-learn's metrics, units, and what is said of mistakes."""

import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from jaxft.config import Config, Data, replace
from jaxft.errors import UserError
from jaxft.models import abstract_model
from jaxft.models.layers import Outputs
from jaxft.tasks.regression import Regression
from jaxft.tasks.regression.metrics import regression_metrics
from jaxft.tasks.regression.task import RegressionTask

NAMES = ("age", "height")
MEAN, STD = (40.0, 1.7), (20.0, 0.1)


@pytest.fixture
def numbers() -> tuple[np.ndarray, np.ndarray]:
    """Outputs and targets, float32 `[6, 2]`, in standardized numbers; a few of them equal."""
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(0, 2, (2, 6, 2)).astype(np.float32)
    outputs[0] = targets[0]
    return outputs, targets


def says(outputs: object) -> Any:
    """A model that puts the same out whatever it sees."""
    return lambda images: outputs


def batch(targets: np.ndarray) -> dict[str, jax.Array]:
    return {"image": jnp.zeros((len(targets), 4, 4, 3), jnp.uint8), "label": jnp.asarray(targets)}


@pytest.mark.parametrize(
    ("fields", "theirs"),
    [
        (Regression(loss="mse"), torch.nn.MSELoss()),
        (Regression(loss="l1"), torch.nn.L1Loss()),
        (Regression(loss="huber"), torch.nn.HuberLoss()),
        (Regression(loss="huber", huber_delta=0.3), torch.nn.HuberLoss(delta=0.3)),
    ],
    ids=["mse", "l1", "huber", "huber 0.3"],
)
def test_losses_and_gradients_are_those_of_pytorch(
    numbers: tuple[np.ndarray, np.ndarray], fields: Regression, theirs: torch.nn.Module
) -> None:
    outputs, targets = numbers
    task = RegressionTask(fields)
    value, gradient = jax.value_and_grad(lambda out: task.loss(says(out), batch(targets))[0])(jnp.asarray(outputs))
    leaf = torch.tensor(outputs, requires_grad=True)
    expected = theirs(leaf, torch.tensor(targets))
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-6, atol=1e-8)


def test_targets_are_learned_standardized_and_told_in_their_units(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    outputs, standardized = numbers
    targets = (standardized * STD + MEAN).astype(np.float32)
    plain, task = RegressionTask(Regression()), RegressionTask(Regression(target_mean=MEAN, target_std=STD))
    loss, metrics = task.loss(says(jnp.asarray(outputs)), batch(targets))
    np.testing.assert_allclose(loss, plain.loss(says(jnp.asarray(outputs)), batch(standardized))[0], rtol=1e-4)
    assert metrics["loss"] == loss
    values = outputs * np.array(STD) + np.array(MEAN)
    np.testing.assert_allclose(metrics["mae"], np.abs(values - targets).mean(), rtol=1e-5)
    found = task.predict(says(jnp.asarray(outputs)), batch(targets))
    np.testing.assert_allclose(found["values"], values, rtol=1e-6)
    np.testing.assert_allclose(found["loss"].mean(), loss, rtol=1e-6)
    np.testing.assert_allclose(task.values(says(jnp.asarray(outputs)), batch(targets)["image"]), values, rtol=1e-6)


def test_auxiliary_heads_add_theirs(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    outputs, targets = numbers
    task = RegressionTask(Regression())
    main, extra = jnp.asarray(outputs), jnp.asarray(outputs) + 1
    alone = [task.loss(says(each), batch(targets))[0] for each in (main, extra)]
    loss, metrics = task.loss(says(Outputs(main, (extra, extra), 0.3)), batch(targets))
    np.testing.assert_allclose(loss, alone[0] + 2 * 0.3 * alone[1], rtol=1e-6)
    np.testing.assert_allclose(metrics["mae"], np.abs(outputs - targets).mean(), rtol=1e-6)


def test_bfloat16_outputs_are_judged_in_float32(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    outputs = jnp.asarray(numbers[0], jnp.bfloat16)
    found = RegressionTask(Regression(target_mean=MEAN, target_std=STD)).predict(says(outputs), batch(numbers[1]))
    assert found["values"].dtype == jnp.float32
    expected = np.asarray(outputs, np.float32) * np.array(STD, np.float32) + np.array(MEAN, np.float32)
    np.testing.assert_allclose(found["values"], expected, rtol=1e-6)


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    true = (rng.normal(0, 1, (50, 2)) * STD + MEAN).astype(np.float32)
    predicted = (true + rng.normal(0, 0.5, (50, 2)) * STD).astype(np.float32)
    found = regression_metrics(predicted, true, NAMES)
    assert found["r2"] == pytest.approx(reference.r2_score(true, predicted))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(true, predicted))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(true, predicted))
    for name, r2, mae in zip(
        NAMES,
        reference.r2_score(true, predicted, multioutput="raw_values"),
        reference.mean_absolute_error(true, predicted, multioutput="raw_values"),
        strict=True,
    ):
        assert found[f"r2/{name}"] == pytest.approx(r2)
        assert found[f"mae/{name}"] == pytest.approx(mae)


@pytest.mark.parametrize(("error", "expected"), [(0.0, 1.0), (0.5, 0.0)])
def test_a_target_that_is_always_the_same(error: float, expected: float) -> None:
    true = np.full((5, 1), 3.0, np.float32)
    predicted = true + np.float32(error)
    assert regression_metrics(predicted, true, ["x"])["r2"] == expected == reference.r2_score(true, predicted)


def test_the_evaluator_counts_each_example_once(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    outputs, targets = numbers
    task = RegressionTask(Regression(loss="l1"))
    found = {key: np.asarray(value) for key, value in task.predict(says(outputs), batch(targets)).items()}
    evaluator = task.evaluator(task.photos([], NAMES))
    for index in (3, 0, 5, 1, 2, 4):
        evaluator.add(index, {key: value[index] for key, value in found.items()})
    assert evaluator.result() == pytest.approx(
        {"loss": np.abs(outputs - targets).mean()} | regression_metrics(outputs, targets, NAMES)
    )


@pytest.mark.parametrize(("name", "better", "worse"), [("r2", 0.9, 0.8), ("mae", 1.0, 2.0), ("rmse", 1.0, 2.0)])
def test_what_is_best(name: Any, better: float, worse: float) -> None:
    metric = RegressionTask(Regression(best_by=name)).primary_metric
    assert metric.name == name
    assert metric.improves(better, worse)
    assert not metric.improves(worse, better)


def test_the_report_says_what_would_standardize_the_targets() -> None:
    data = Data(source="shapes")
    train, validation = RegressionTask(Regression()).datasets(data, 0)
    report = pickle.loads(pickle.dumps(train)).report(8).splitlines()  # worker processes get the report, too
    assert report[0] == "1,000 images, targets:"
    assert report[1] == "  x     mean 31.4792, deviation 12.397, from 6.03354 to 57.8602"
    assert report[-1] == (
        "  to standardize them: --task.target-mean 31.4792 31.4126 21.3703 --task.target-std 12.397 12.2437 6.47702"
    )
    standardized, _ = RegressionTask(Regression(target_std=(12.0, 12.0, 6.0))).datasets(data, 0)
    assert "standardize" not in validation.report(8) + standardized.report(8)


def test_a_part_of_the_training_data_is_held_out() -> None:
    train, held_out = RegressionTask(Regression()).datasets(Data(source="shapes", holdout=0.1), 0)
    assert (len(train), len(held_out)) == (900, 100)
    assert not set(train.names()) & set(held_out.names())


def test_mistakes_of_a_configuration(tmp_path: Path) -> None:
    task = RegressionTask(Regression(target_mean=(1.0,)))
    model = says(None)
    with pytest.raises(UserError, match=r"task.target_mean has 1 number\(s\), but the data have 2 target\(s\): age, h"):
        task.check_model(model, NAMES)
    with pytest.raises(UserError, match=r"task.target_std has 3 number\(s\)"):
        RegressionTask(Regression(target_std=(1.0, 1.0, 1.0))).check_model(model, NAMES)
    with pytest.raises(UserError, match=r"target_std.*greater than 0"):
        replace(Config(task=Regression()), {"task.target_std": (0.0, 1.0)})
    with pytest.raises(UserError, match=r"Regression has no field 'label_smoothing'"):
        replace(Config(task=Regression()), {"task.label_smoothing": 0.1})
    with pytest.raises(UserError, match=r"task is regression, which takes the data sources csv and shapes; 'folder'"):
        task.datasets(Data(source="folder", root=str(tmp_path)), 0)
    with pytest.raises(UserError, match=r"is a detector .*, but the task is regression"):
        task.check_model(abstract_model("retinanet_efficientnet_lite0_fpn", 2), NAMES)


def test_a_model_of_the_wrong_shape_is_refused(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    outputs, targets = numbers
    with pytest.raises(UserError, match=r"shape \(6,\), but a batch of 6 images with 2 target\(s\) each is \(6, 2\)"):
        RegressionTask(Regression()).loss(says(jnp.asarray(outputs[:, 0])), batch(targets))
