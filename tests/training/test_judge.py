"""Early stopping against MMEngine's hook, and which model is the best."""

import json
import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from jaxft.config import Config, EarlyStopping
from jaxft.errors import UserError
from jaxft.tasks.task import Metric
from jaxft.training.checkpoint import best_value
from jaxft.training.evaluation import evaluate
from jaxft.training.judge import Judge, check_judging, named_metric
from tests.mmdet_live import quiet

with quiet():
    from mmengine.hooks import EarlyStoppingHook


class Log(list[str]):
    """A logger that keeps its lines."""

    def info(self, line: str) -> None:
        self.append(line)


def settings_of(rng: np.random.Generator) -> EarlyStopping:
    return EarlyStopping(
        patience=int(rng.integers(0, 5)),
        metric=str(rng.choice(["a", "-a"])),
        min_delta=float(rng.choice([0.0, 0.01, 0.1, 0.3])),
        threshold=None if rng.random() < 0.5 else float(rng.normal()),
        check_finite=bool(rng.random() < 0.5),
    )


@pytest.mark.parametrize("kind", ["plain", "with what is no number", "with what is missing"])
def test_runs_end_where_mmengines_end(kind: str) -> None:
    rng, ends = np.random.default_rng(3), []
    for _ in range(300):
        settings = settings_of(rng)
        rule = "less" if settings.metric == "-a" else "greater"
        hook = EarlyStoppingHook(
            monitor="a",
            rule=rule,
            min_delta=settings.min_delta,
            check_finite=settings.check_finite,
            patience=settings.patience,
            stopping_threshold=settings.threshold,
        )
        runner: Any = SimpleNamespace(train_loop=SimpleNamespace(stop_training=False), logger=Log())
        judge = Judge(Config(early_stopping=settings), Metric("b"))
        values = np.cumsum(rng.normal(size=12) * 0.2) * (-1 if rule == "less" else 1)
        for index, value in enumerate(values.tolist()):
            metrics = {"a": value, "b": 0.0}
            if kind == "with what is no number" and rng.random() < 0.2:
                metrics["a"] = float(rng.choice([math.nan, math.inf, -math.inf]))
            if kind == "with what is missing" and index and rng.random() < 0.3:
                del metrics["a"]
            with quiet():
                hook.after_val_epoch(runner, metrics)
            judge.judge(metrics)
            assert bool(judge.ended) == runner.train_loop.stop_training, (settings, values, index)
            if judge.ended:
                break
        ends.append(index)
    assert len(set(ends)) > 6


def test_a_run_that_goes_on_has_seen_what_it_has_seen() -> None:
    config = Config(early_stopping=EarlyStopping(patience=3, min_delta=0.0))
    values = [{"accuracy": value} for value in (0.5, 0.6, 0.55, 0.58, 0.59)]
    for seen in range(len(values)):
        judge = Judge(config, Metric("accuracy"), before=values[:seen])
        for metrics in values[seen:-1]:
            judge.judge(metrics)
            assert not judge.ended
        judge.judge(values[-1])
        assert judge.ended == "accuracy has not become better than 0.6000 by 0 in 3 evaluation(s)"


def test_what_is_not_defined_is_never_the_best() -> None:
    judge = Judge(Config(), Metric("mAP"))
    for metrics in ({"mAP": math.nan}, {"other": 1.0}):
        better, remark = judge.judge(metrics)
        assert not better
        assert "mAP is not defined" in remark
        assert judge.best is None
    assert judge.judge({"mAP": 0.0}) == (True, "")
    assert not judge.judge({"mAP": math.nan})[0]
    assert judge.judge({"mAP": 0.2}) == (True, "")
    assert judge.judge({"mAP": 0.1}) == (False, "")
    assert judge.best == 0.2


def test_a_loss_that_is_no_number_ends_a_run_and_what_is_not_defined_does_not() -> None:
    found = {"loss": math.nan, "AP": math.nan, "accuracy": 0.1}
    task: Any = SimpleNamespace(evaluator=lambda dataset: SimpleNamespace(result=lambda: found, details=dict))
    nothing: Any = lambda arrays, dataset: iter(())  # noqa: E731
    metrics, *_ = evaluate(nothing, task, {}, cast(Any, ()))
    assert list(metrics) == ["loss", "accuracy"]
    judge = Judge(Config(early_stopping=EarlyStopping(patience=3, metric="-loss")), Metric("accuracy"))
    assert judge.judge(metrics) == (True, "")
    assert judge.ended == "loss is nan"


def test_another_metric_may_choose_the_best() -> None:
    assert named_metric("-loss") == Metric("loss", greater_is_better=False)
    judge = Judge(Config(best_metric="-loss"), named_metric("-loss"))
    assert [judge.judge({"loss": loss, "accuracy": 0.5})[0] for loss in (2.0, 1.0, 1.5)] == [True, True, False]


def test_the_best_value_so_far_is_that_of_the_same_metric_and_direction() -> None:
    kept: Any = SimpleNamespace(
        step=lambda which="last": 3,
        metadata=lambda which: json.loads(json.dumps({"best": 0.5, "metric": Metric("loss")})),
    )
    assert best_value(kept, Metric("loss")) == 0.5
    assert best_value(kept, Metric("accuracy")) is None
    assert best_value(kept, named_metric("-loss")) is None


def test_a_metric_that_there_is_not_is_named() -> None:
    for field, config in (
        ("best_metric is 'acuracy'", Config(best_metric="acuracy")),
        ("early_stopping.metric is '-los'", Config(early_stopping=EarlyStopping(patience=1, metric="-los"))),
    ):
        with pytest.raises(UserError, match=f"{field}, but an evaluation gives loss, accuracy"):
            check_judging(config, ("loss", "accuracy"))
        check_judging(config, ())  # not known yet
        with pytest.raises(UserError, match=field):
            Judge(config, Metric("loss")).judge({"loss": 1.0, "accuracy": 0.1})


def test_a_metric_that_is_missing_later_is_an_error_where_that_is_said() -> None:
    judge = Judge(Config(early_stopping=EarlyStopping(patience=1, strict=True)), Metric("mAP"))
    judge.judge({"mAP": 0.5})
    with pytest.raises(UserError, match="mAP is missing in an evaluation"):
        judge.judge({"other": 0.5})


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (Config(best_metric="loss"), "best_metric is 'loss'"),
        (Config(evaluate_every=3), "evaluate_every is 3"),
        (Config(early_stopping=EarlyStopping(patience=2)), "early_stopping.patience is 2"),
    ],
)
def test_what_speaks_of_evaluations_that_there_are_not_is_refused(config: Config, field: str) -> None:
    with pytest.raises(UserError, match=field):
        check_judging(config, None)
