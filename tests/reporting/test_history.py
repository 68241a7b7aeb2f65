"""Lines of metrics as curves, and what they advise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxft.reporting.advice import Budget, advice
from jaxft.reporting.details import Curve, Details, Evaluation, Plot, Table
from jaxft.reporting.history import History, loss_plot, metric_plots, part_plots, read_history, smoothed, speed_plots

BUDGET = Budget(phase=0, epochs=5, workers=0, rate=0.1, unweighted=True)


def history(train: list[float], validation: list[float] = [], **more: Any) -> History:  # noqa: B006
    steps = [{"step": 10 * i, "epoch": i, "split": "train", "loss": loss, **more} for i, loss in enumerate(train, 1)]
    checks = [{"step": 10 * i, "epoch": i, "loss": loss, "acc": loss} for i, loss in enumerate(validation, 1)]
    return History([*steps], [*checks])


def test_a_line_that_a_kill_has_cut_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    whole = [{"step": 1, "split": "train", "loss": 2.0}, {"step": 2, "split": "validation", "loss": float("nan")}]
    file.write_text("\n".join([*map(json.dumps, whole), '{"step": 3, "spl']))
    read = read_history(file)
    assert [line["step"] for line in (*read.train, *read.validation)] == [1, 2]
    assert read.unread == 1
    assert read_history(tmp_path / "none") == ([], [], 0)
    file.write_bytes(b"\xff\xfe[]\n")
    assert read_history(file) == ([], [], 1)
    assert read.best("loss", greater=False) is None


def test_smoothing_is_not_drawn_towards_nothing() -> None:
    assert smoothed([3.0] * 5) == pytest.approx([3.0] * 5)
    values = np.random.default_rng(0).normal(size=200) + 2
    assert np.std(smoothed(values.tolist())[50:]) < 0.5 * np.std(values)


def test_curves_show_the_best_point_and_smooth_what_is_long() -> None:
    found = history(
        [float(i) for i in range(30)], [0.5, 0.7, 0.6], loss_cls=1.0, images_per_second=5.0, peak_memory=2e9
    )
    assert [curve.label for curve in loss_plot(found).curves] == ["train, each line", "train, smoothed", "validation"]
    metric, *_ = metric_plots(found, "acc", greater=True)
    assert (metric.curves[1].x, metric.curves[1].y) == ((20,), (0.7,))
    assert [curve.label for curve in part_plots(found)[0].curves] == ["loss_cls"]
    assert speed_plots(found)[-1].curves[0].y[0] == 2
    assert part_plots(history([1.0])) == []


def said(found: History, evaluation: Evaluation | None = None) -> str:
    return " ".join(f"{each.text} {each.options}" for each in advice(found, evaluation, BUDGET))


def test_each_rule_speaks_where_it_applies_and_not_elsewhere() -> None:
    falling = [1 / (1 + i) for i in range(20)]
    flat = [*falling, *([0.04] * 40)]
    assert said(history(flat, [0.5, 0.4, 0.39])) == ""
    assert said(history([])) == ""
    assert "rate may be too high" in said(history([1.0 + 0.1 * i for i in range(20)]))
    assert "--optimizer.learning-rate 0.01" in said(history([1.0] * 10 + [float("nan")] * 3))
    assert "lowest in epoch 2 (0.3)" in said(history(flat, [0.5, 0.3, 0.5]))
    assert "--phases.0.epochs 10" in said(history(falling))
    assert "not finite from step 110 on" in said(history([1.0] * 10 + [float("nan")] * 3))
    assert "--data.workers 2" in said(history(flat, data_wait=0.5))
    rows = (("rare", 0.5, 10), ("often", 0.95, 90))
    table = Table(name="classes", title="", columns=("class", "recall", "examples"), rows=rows)
    plot = Plot(
        name="calibration",
        title="",
        x="",
        y="",
        curves=(Curve(label="", x=(0.1, 0.9), y=(0.0, 1.0)), Curve(label="", x=(0.9,), y=(0.6,))),
    )
    uneven = Evaluation(
        step=1, epoch=1, split="", examples=2, metrics={}, details=Details(tables=(table,), plots=(plot,))
    )
    spoken = said(history(flat), uneven)
    assert "rare has 10 examples and often 90" in spoken
    assert "off by 30% on average" in spoken
