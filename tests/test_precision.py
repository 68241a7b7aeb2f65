"""How exactly is multiplied is said in every program, for every platform, and to people."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft import train
from jaxft.config import Config, Optimizer
from jaxft.export import stablehlo
from jaxft.models.paths import values
from jaxft.precision import described, dtype_of
from jaxft.tasks.classification.task import ClassificationTask
from jaxft.training.step import StepInputs, key_data, predict_step, train_step
from tests.small import call
from tests.training.test_step import FIELDS, batch, prepared, small

pytest_plugins = ("tests.runs",)
PRODUCTS = re.compile(r"stablehlo\.(?:dot_general|convolution)\b.*")
LEVELS = {"float32": "HIGHEST", "tensorfloat32": "HIGH", "bfloat16": "HIGHEST", "float64": "HIGHEST"}


def levels(text: str) -> set[tuple[str, ...]]:
    """How exactly the products and convolutions of a program multiply."""
    lines = PRODUCTS.findall(text)
    assert len(lines) >= 3
    return {tuple(re.findall(r"\b(DEFAULT|HIGH|HIGHEST)\b", line)) for line in lines}


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", "bfloat16"])
def test_every_product_of_a_training_step_says_how_exact_it_is(precision: str, platform: str) -> None:
    """Those of the gradient, of parts of a batch, and of each platform's form of a convolution, too."""
    model = small()
    state, stage = prepared(model, optimizer=Optimizer(accumulate=2))
    task = ClassificationTask(FIELDS, dtype_of(precision))
    step = train_step(model, task.loss, stage.groups.trained, stage.chain, parts=2, precision=precision)
    traced = jax.jit(step).trace(state, batch(), StepInputs(key_data(0), stage.numbers(0)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert levels(text) == {(LEVELS[precision],) * 2}
    assert ("bf16" in text) == (precision == "bfloat16")


@pytest.mark.parametrize("precision", LEVELS)
def test_predictions_say_it_too(precision: str) -> None:
    model = small()
    model.eval()
    with jax.enable_x64(precision == "float64"):
        step = predict_step(model, ClassificationTask(FIELDS, dtype_of(precision)).predict, precision)
        assert levels(jax.jit(step).lower(values(model), batch()).as_text()) == {(LEVELS[precision],) * 2}
    assert jax.config.jax_default_matmul_precision is None  # nothing is left behind


@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", "bfloat16"])
def test_an_exported_program_is_as_precise_as_the_evaluation(precision: Any) -> None:
    model = small()
    model.eval()
    config, data = Config(task=FIELDS, precision=precision), batch()
    run: Any = SimpleNamespace(model=model, config=config)
    program = jax.export.deserialize(bytearray(stablehlo(run)))
    assert levels(program.mlir_module()) == {(LEVELS[precision],) * 2}
    task = ClassificationTask(FIELDS, config.dtype)
    predict = jax.jit(predict_step(model, lambda model, batch: {"y": task.logits(model, batch["image"])}, precision))
    pixels = np.resize(data["image"], (2, FIELDS.images.crop, FIELDS.images.crop, 3))
    found, wanted = program.call(pixels), predict(values(model), {"image": jnp.asarray(pixels)})["y"]
    assert found.dtype == wanted.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_on_a_cpu_nothing_changes() -> None:
    model, results = small(), []
    for precision in ("float32", "tensorfloat32"):
        state, stage = prepared(model)
        step = train_step(
            model, ClassificationTask(FIELDS).loss, stage.groups.trained, stage.chain, precision=precision
        )
        results.append(jax.jit(step)(state, batch(), StepInputs(key_data(0), stage.numbers(0))))
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_is_said_before_anything_else(config_file: Path, tmp_path: Path) -> None:
    assert described("float32") == "precision: float32 (highest)"
    assert described("tensorfloat32") == "precision: tensorfloat32 (high)"
    arguments = ("--config", config_file, "--workdir", tmp_path / "run", "--dry-run", "--precision", "tensorfloat32")
    result = call(train.main, *arguments)
    assert result.code == 0, result
    assert result.out.splitlines()[0] == described("tensorfloat32")


def test_a_run_says_it_first_too(small_run: Path, config_file: Path) -> None:
    result = call(train.main, "--config", config_file, "--workdir", small_run, "--resume")
    assert result.code == 0, result
    assert "precision: float32 (highest)" in result.out.splitlines()[:2]
