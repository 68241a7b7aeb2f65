"""A model at work on a dataset."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from jaxft.training.evaluation import evaluate


def test_predictions_are_written_as_they_come() -> None:
    events: list[tuple[str, int]] = []

    def made(arrays: Any, dataset: Any) -> Iterator[tuple[int, Any]]:
        for index in (1, 0):
            events.append(("made", index))
            yield index, {}

    def write(predictions: Iterator[tuple[int, Any]]) -> None:
        events.extend(("written", index) for index, _ in predictions)

    evaluator = SimpleNamespace(
        add=lambda index, _: events.append(("scored", index)), result=lambda: {"loss": 0.5}, details=dict
    )
    some: Any = (made, SimpleNamespace(evaluator=lambda _: evaluator), {}, (None, None))
    metrics, _ = evaluate(*some, write=write)
    assert events == [(what, index) for index in (1, 0) for what in ("made", "scored", "written")]
    assert metrics == {"loss": 0.5}
