"""What an evaluation decides: whether its model is the best so far, and whether the run has seen enough."""

import math
from collections.abc import Collection, Iterable, Mapping

from jaxft.config import Config, EarlyStopping
from jaxft.errors import UserError
from jaxft.fields import differences
from jaxft.reporting.details import whole
from jaxft.tasks.task import Metric


class Judge:
    """Judges the evaluations of a run, one after the other.

    Args:
        metric: decides which model is best.
        best: its best value so far; None where there is none.
        before: the metrics of the evaluations that a run that goes on has made already.
    """

    def __init__(
        self, config: Config, metric: Metric, best: float | None = None, before: Iterable[Mapping[str, float]] = ()
    ) -> None:
        self.metric, self.best = metric, best
        stopping = config.early_stopping
        watched = metric if stopping.metric is None else named_metric(stopping.metric)
        self._patience = None if stopping.patience is None else Patience(stopping, watched)
        self._config, self._first = config, True
        self.ended = ""
        for metrics in before:
            self.judge(metrics, replayed=True)

    def judge(self, metrics: Mapping[str, float], *, replayed: bool = False) -> tuple[bool, str]:
        """Whether the model is the best so far; and what a person should know of that, if anything.

        `ended` then says why the run is over, if it is. A value that is missing or NaN is never the best.

        Args:
            replayed: the evaluation was judged before, and its best model is known.

        Raises:
            UserError: a metric that the configuration names is not among those of the first evaluation here, or is
                missing later where that is an error.
        """
        if not replayed:
            self._check_names(metrics)
            self._first = False
        if self._patience is not None and not self.ended:
            self.ended = self._patience.reason_to_end(metrics)
        if replayed:
            return False, ""
        value = metrics.get(self.metric.name, math.nan)
        if math.isnan(value):
            return False, f"{self.metric.name} is not defined here, so that this model is not compared with the best."
        better = self.metric.improves(value, self.best)
        if better:
            self.best = value
        return better, ""

    def _check_names(self, there: Collection[str]) -> None:
        check_names(self._config, there) if self._first else None
        if self._patience is not None and self._config.early_stopping.strict and self._patience.name not in there:
            raise UserError(
                f"{self._patience.name} is missing in an evaluation, which early_stopping.strict does not allow; there "
                f"are {', '.join(there)}."
            )


class Patience:
    """MMEngine's EarlyStoppingHook on one metric (mmengine/hooks/early_stopping_hook.py)."""

    def __init__(self, settings: EarlyStopping, metric: Metric) -> None:
        assert settings.patience is not None
        self.name, self._greater = metric
        self._settings, self._patience = settings, settings.patience
        self._best, self._waited = -math.inf if self._greater else math.inf, 0

    def reason_to_end(self, metrics: Mapping[str, float]) -> str:
        """Why the run is to end after an evaluation; empty where it goes on, also where the metric is missing."""
        if self.name not in metrics:
            return ""
        name, value, threshold = self.name, metrics[self.name], self._settings.threshold
        if self._settings.check_finite and not math.isfinite(value):
            return f"{name} is {value}"
        if threshold is not None and self._better(value, threshold):
            self._best = value
            return f"{name} {value:.4f} is better than {threshold:g}"
        least = self._settings.min_delta
        if self._better(self._best + (least if self._greater else -least), value):
            self._waited += 1
            short = f"{name} has not become better than {self._best:.4f} by {least:g} in {self._waited} evaluation(s)"
            return short if self._waited >= self._patience else ""
        self._best, self._waited = value, 0
        return ""

    def _better(self, one: float, other: float) -> bool:
        return one > other if self._greater else one < other


def named_metric(name: str) -> Metric:
    """The metric of a name; one with a leading `-` is better where it is smaller."""
    return Metric(name.removeprefix("-"), greater_is_better=not name.startswith("-"))


def check_names(config: Config, there: Collection[str]) -> None:
    """Raises a UserError where a metric that a configuration names is not among those that there are."""
    for field, name in (("best_metric", config.best_metric), ("early_stopping.metric", config.early_stopping.metric)):
        if name is not None and named_metric(name).name not in there:
            few = whole(there)
            more = ", and figures of single classes (NAME/CLASS)" if len(few) < len(there) else ""
            raise UserError(f"{field} is {name!r}, but an evaluation gives {', '.join(few)}{more}; name one of them.")


def check_judging(config: Config, there: Collection[str] | None) -> None:
    """Looks whether what a configuration says of evaluations can be done, as far as that is known before the first.

    Args:
        there: the metrics; empty where they are not known yet, None where nothing is evaluated.

    Raises:
        UserError: a metric that does not exist, or a field that nothing would read.
    """
    if there is None:
        fields = ("best_metric", "evaluate_every", "evaluate_unit", "evaluate_from", "early_stopping.patience")
        changed = differences(config, Config())
        if given := [name for name in fields if name in changed]:
            raise UserError(
                f"{given[0]} is {changed[given[0]][0]!r}, but nothing is evaluated, because there is no validation "
                f"split; name one by data.validation, or leave {given[0]} out."
            )
    elif there:
        check_names(config, there)
