"""What evaluations say beyond their metrics, beside scikit-learn."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from jaxft.reporting.details import Details, Evaluation, Table, from_json, to_csv, to_json, to_rows, whole
from jaxft.reporting.page.plots import to_plotly
from jaxft.tasks.classification.details import class_details
from jaxft.tasks.multilabel.details import label_details
from jaxft.tasks.regression.details import number_details

NAMES = ("a", "b, c", "<d>")
COUNT = 60


def dataset(names: tuple[str, ...] = NAMES) -> Any:
    return SimpleNamespace(classes=names, names=lambda: [f"photo {index}\t0" for index in range(COUNT)])


def random_classes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(COUNT, 3)), rng.integers(0, 3, COUNT)
    logits[np.arange(COUNT), labels] += 1
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def column(table: Table, name: str) -> np.ndarray:
    return np.array([row[table.columns.index(name)] for row in table.rows], float)


def test_figures_by_class_are_scikit_learns() -> None:
    probabilities, labels = random_classes()
    guesses, losses = probabilities.argmax(1), -np.log(probabilities[np.arange(COUNT), labels])
    found = class_details(dataset(), range(COUNT), probabilities, labels, losses)
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(labels, guesses)
    (table,) = found.tables
    for name, values in (("precision", precision), ("recall", recall), ("F1", f1), ("examples", support)):
        np.testing.assert_allclose(column(table, name), values)
    averages = sklearn.average_precision_score(labels[:, None] == np.arange(3), probabilities, average=None)
    np.testing.assert_allclose(column(table, "AP"), averages)
    assert found.confusion is not None
    np.testing.assert_array_equal(found.confusion.counts, sklearn.confusion_matrix(labels, guesses))
    assert found.confusion.table().columns == ("truth", *NAMES)
    curve = found.plots[0].curves[1]
    expected, there, _ = sklearn.precision_recall_curve(labels == 1, probabilities[:, 1], drop_intermediate=False)
    np.testing.assert_allclose(curve.x, there[-2::-1])
    np.testing.assert_allclose(np.array(curve.y, float), expected[-2::-1])
    shares, said = calibration_curve(guesses == labels, probabilities.max(1), n_bins=15)
    np.testing.assert_allclose(found.plots[1].curves[1].x, said)
    np.testing.assert_allclose(np.array(found.plots[1].curves[1].y, float), shares)
    example = found.examples[7]
    assert (example.name, example.truth, example.cells) == ("photo 7", NAMES[labels[7]], ((labels[7], guesses[7]),))
    assert example.wrong == pytest.approx(losses[7])


def test_a_class_that_is_not_there_has_no_figures() -> None:
    probabilities, labels = random_classes()
    some = labels != 1
    probabilities = probabilities[some] * [1, 0, 1]
    found = class_details(dataset(), np.flatnonzero(some).tolist(), probabilities, labels[some], np.zeros(some.sum()))
    row = dict(zip(found.tables[0].columns, found.tables[0].rows[1], strict=True))
    assert row.pop("class") == NAMES[1]
    assert (row.pop("examples"), row.pop("predicted")) == (0, 0)
    assert np.isnan(list(row.values())).all()  # type: ignore[arg-type]
    assert to_csv(found.tables[0]).splitlines()[2] == '"b, c",,,,,0,0'
    assert to_rows(found.tables[0])[1]["AP"] is None


def test_figures_by_label_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.random((COUNT, 3)), rng.integers(0, 2, (COUNT, 3))
    found = label_details(dataset(), range(COUNT), scores, labels.astype(np.float32), scores[:, 0], 0.4)
    precision, recall, f1, _ = sklearn.precision_recall_fscore_support(labels, scores >= 0.4)
    for name, values in (("precision", precision), ("recall", recall), ("F1", f1)):
        np.testing.assert_allclose(column(found.tables[0], name), values)
    np.testing.assert_allclose(
        column(found.tables[0], "AP"), sklearn.average_precision_score(labels, scores, average=None)
    )
    assert found.examples[0].certainty == pytest.approx(np.maximum(scores[0], 1 - scores[0]).min())


def test_figures_by_target_are_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    true = rng.normal(size=(COUNT, 2)) * [1, 50]
    said = true + rng.normal(size=(COUNT, 2))
    found = number_details(dataset(("x", "y")), range(COUNT), said, true, np.zeros(COUNT))
    table = found.tables[0]
    np.testing.assert_allclose(column(table, "R²"), sklearn.r2_score(true, said, multioutput="raw_values"))
    errors = sklearn.mean_absolute_error(true, said, multioutput="raw_values")
    np.testing.assert_allclose(column(table, "mean absolute error"), errors)
    assert sum(found.plots[1].curves[0].y) == COUNT  # type: ignore[arg-type]
    assert found.examples[0].truth.startswith("x ")
    said[3] = np.inf, np.nan
    broken = number_details(dataset(("x", "y")), range(COUNT), said, true, np.zeros(COUNT))
    assert sum(broken.plots[1].curves[0].y) == COUNT - 1  # type: ignore[arg-type]
    for plot in broken.plots:
        json.dumps(to_plotly(plot), allow_nan=False)


def test_an_evaluation_is_read_as_it_was_written() -> None:
    table = Table(name="t", title="T", columns=("a", "b"), rows=(("x", float("nan")), (None, 2)))
    found = Evaluation(
        step=1, epoch=1, split="test", examples=2, metrics={"loss": float("nan")}, details=Details(tables=(table,))
    )
    again = from_json(to_json(found), "here")
    assert str(again) == str(found)


def test_figures_of_groups_are_whole_and_those_of_classes_are_not() -> None:
    names = ("bbox_mAP", "bbox_mAP/cat", "old/bbox_mAP", "loss")
    assert whole(names) == ["bbox_mAP", "old/bbox_mAP", "loss"]
