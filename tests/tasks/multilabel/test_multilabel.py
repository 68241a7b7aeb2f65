"""Multi-label classification: PyTorch's loss, scikit-learn's metrics, and what is said of mistakes."""

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
from jaxft.models.layers import Outputs
from jaxft.reporting.mosaic import Line
from jaxft.tasks.multilabel import Multilabel
from jaxft.tasks.multilabel.metrics import average_precision, multilabel_metrics
from jaxft.tasks.multilabel.task import MultilabelTask, _title

NAMES = ("cat", "dog", "emu")


@pytest.fixture
def numbers() -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels, float32 `[8, 3]`, some far beyond what exp can hold."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (8, 3)).astype(np.float32), rng.integers(0, 2, (8, 3)).astype(np.float32)
    logits[0], logits[1] = 200, -200
    return logits, labels


def says(outputs: object) -> Any:
    """A model that puts the same out whatever it sees."""
    return lambda images: outputs


def batch(labels: np.ndarray) -> dict[str, jax.Array]:
    return {"image": jnp.zeros((len(labels), 4, 4, 3), jnp.uint8), "label": jnp.asarray(labels)}


@pytest.mark.parametrize("weight", [(), (3.0, 0.5, 1.0)])
def test_loss_and_gradient_are_those_of_pytorch(
    numbers: tuple[np.ndarray, np.ndarray], weight: tuple[float, ...]
) -> None:
    logits, labels = numbers
    task = MultilabelTask(Multilabel(positive_weight=weight))
    value, gradient = jax.value_and_grad(lambda out: task.loss(says(out), batch(labels))[0])(jnp.asarray(logits))
    leaf = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight) if weight else None)(
        leaf, torch.tensor(labels)
    )
    expected.backward()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("positive", "negative", "margin"), [(0.0, 4.0, 0.05), (1.0, 2.0, 0.0), (0.0, 0.0, 0.1)])
def test_the_asymmetric_loss_is_its_formula(
    positive: float, negative: float, margin: float, numbers: tuple[np.ndarray, np.ndarray]
) -> None:
    """Beside the paper's, written in PyTorch, with its gradient; finite for any logits, and no part of evaluation."""
    logits, labels = numbers
    task = MultilabelTask(Multilabel(focal_positive=positive, focal_negative=negative, margin=margin))
    value = jax.value_and_grad(lambda out, labels: task.loss(says(out), batch(labels))[0])
    assert all(np.isfinite(found).all() for found in value(jnp.asarray(logits), labels))
    leaf = torch.tensor(logits[2:], dtype=torch.float64, requires_grad=True)
    p, y = torch.sigmoid(leaf), torch.tensor(labels[2:])
    shifted = (p - margin).clamp(min=0)
    expected = -(y * (1 - p) ** positive * p.log() + (1 - y) * shifted**negative * (1 - shifted).log()).mean()
    expected.backward()
    found, gradient = value(jnp.asarray(logits[2:]), labels[2:])
    np.testing.assert_allclose(found, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-4, atol=1e-7)
    plain = MultilabelTask(Multilabel()).predict(says(jnp.asarray(logits)), batch(labels))["loss"]
    np.testing.assert_array_equal(task.predict(says(jnp.asarray(logits)), batch(labels))["loss"], plain)


def test_what_is_predicted(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = numbers
    task = MultilabelTask(Multilabel())
    found = task.predict(says(jnp.asarray(logits, jnp.bfloat16)), batch(labels))
    assert found["probabilities"].dtype == jnp.float32
    expected = torch.sigmoid(torch.tensor(np.asarray(jnp.asarray(logits, jnp.bfloat16), np.float32)))
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-5, atol=1e-8)
    exact = task.predict(says(jnp.asarray(logits)), batch(labels))
    np.testing.assert_allclose(exact["loss"].mean(), task.loss(says(jnp.asarray(logits)), batch(labels))[0], rtol=1e-6)


def test_auxiliary_heads_add_theirs(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    main, extra = jnp.asarray(numbers[0][2:]), jnp.asarray(numbers[0][2:]) + 1
    task, given = MultilabelTask(Multilabel()), batch(numbers[1][2:])
    alone = [task.loss(says(each), given)[0] for each in (main, extra)]
    np.testing.assert_allclose(task.loss(says(Outputs(main, (extra,), 0.3)), given)[0], alone[0] + 0.3 * alone[1])


@pytest.mark.parametrize("steps", [3, 1000], ids=["many equal scores", "few"])
def test_metrics_are_those_of_scikit_learn(steps: int) -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random((60, 3)) < (0.5, 0.2, 0.0)).astype(np.float32)  # the last one does not occur
    scores = np.clip(rng.random((60, 3)) + 0.3 * labels, 0, 1)
    scores = (np.round(scores * steps) / steps).astype(np.float32)
    found = multilabel_metrics(scores, labels, NAMES, 0.6)
    precision = [reference.average_precision_score(labels[:, i], scores[:, i]) for i in range(2)]
    f1 = reference.f1_score(labels[:, :2], scores[:, :2] >= 0.6, average=None)
    assert found == pytest.approx(
        {
            "mAP": np.mean(precision),
            "f1": np.mean(f1),
            "AP/cat": precision[0],
            "AP/dog": precision[1],
            "f1/cat": f1[0],
            "f1/dog": f1[1],
        }
    )
    order = rng.permutation(60)
    assert multilabel_metrics(scores[order], labels[order], NAMES, 0.6) == pytest.approx(found)


def test_figures_known_by_hand() -> None:
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == pytest.approx(5 / 6)
    labels, sure = np.array([[1, 0, 0], [0, 1, 0]]), np.array([[0.9, 0.1, 0.9], [0.1, 0.9, 0.9]])
    assert multilabel_metrics(sure, labels, NAMES, 0.5)["mAP"] == 1
    nothing = multilabel_metrics(sure, np.zeros((2, 3)), NAMES, 0.5)
    assert nothing == {"mAP": 0, "f1": 0}


def test_the_evaluator_counts_each_example_once(numbers: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = numbers
    task = MultilabelTask(Multilabel(threshold=0.7))
    found = {key: np.asarray(value) for key, value in task.predict(says(logits), batch(labels)).items()}
    evaluator = task.evaluator(task.photos([], NAMES))
    for index in (7, 3, 0, 5, 1, 2, 4, 6):
        evaluator.add(index, {key: value[index] for key, value in found.items()})
    expected = multilabel_metrics(found["probabilities"], labels, NAMES, 0.7)
    assert evaluator.result() == pytest.approx({"loss": found["loss"].mean()} | expected)
    assert task.primary_metric.name in expected
    assert task.primary_metric.improves(0.9, 0.8)
    nan = float("nan")
    assert task.primary_metric.improves(0.1, nan)
    assert not task.primary_metric.improves(nan, nan)
    assert not task.primary_metric.improves(nan, 0.1)


@pytest.mark.parametrize(
    ("probabilities", "labels", "lines"),
    [
        ((0.6, 0.9, 0.2), (1, 1, 0), [Line("dog 90%", "green"), Line("cat 60%", "green")]),
        ((0.6, 0.1, 0.2), (0, 0, 1), [Line("cat 60%", "red"), Line("missed: emu 20%", "red")]),
        ((0.1, 0.1, 0.2), (0, 0, 0), [Line("none", "green")]),
        ((0.6, 0.1, 0.2), (np.nan,) * 3, [Line("cat 60%", "black")]),
        ((0.1, 0.1, 0.2), (np.nan,) * 3, [Line("none", "black")]),
    ],
)
def test_what_stands_over_a_photo(probabilities: Any, labels: Any, lines: list[Line]) -> None:
    assert _title({"probabilities": np.array(probabilities), "label": np.array(labels)}, NAMES, 0.5) == lines


def test_the_report_counts_labels() -> None:
    train, _ = MultilabelTask(Multilabel()).datasets(Data(source="shapes"), 0)
    report = pickle.loads(pickle.dumps(train)).report(8)  # worker processes get the report, too
    assert report.splitlines() == [
        "1,000 images, labels:",
        "  circle    489 (48.9%)",
        "  square    528 (52.8%)",
        "  triangle  499 (49.9%)",
        "  (none)    119 (11.9%)",
    ]


def test_mistakes_of_a_configuration() -> None:
    model = says(None)
    with pytest.raises(UserError, match=r"positive_weight has 2 number\(s\), but the data have 3 label\(s\): cat, dog"):
        MultilabelTask(Multilabel(positive_weight=(1.0, 2.0))).check_model(model, NAMES)
    with pytest.raises(UserError, match=r"threshold.*less than 1"):
        replace(Config(task=Multilabel()), {"task.threshold": 1.0})
    with pytest.raises(UserError, match=r"Multilabel has no field 'huber_delta'"):
        replace(Config(task=Multilabel()), {"task.huber_delta": 1.0})
    with pytest.raises(UserError, match=r"task is multi-label classification, which takes .* csv and shapes; 'coco'"):
        MultilabelTask(Multilabel()).datasets(Data(source="coco"), 0)
    with pytest.raises(UserError, match=r"shape \(2, 1\), but a batch of 2 images with 3 target\(s\) each"):
        MultilabelTask(Multilabel()).loss(says(jnp.zeros((2, 1))), batch(np.zeros((2, 3), np.float32)))


def test_a_split_without_any_label_is_refused(tmp_path: Path) -> None:
    for split, flag in (("train", 1), ("test", 0)):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").touch()
        (tmp_path / f"{split}.csv").write_text(f"file,cat,dog\na.png,{flag},0\n")
    with pytest.raises(UserError, match="None of the 1 images of the split 'test' has one of the labels cat, dog"):
        MultilabelTask(Multilabel()).datasets(Data(source="csv", root=str(tmp_path)), 0)
