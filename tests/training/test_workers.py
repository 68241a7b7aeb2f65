"""Worker processes last as long as the run; lines of metrics come when their numbers are there."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from jaxft.config import Data, Phase, replace
from jaxft.training.fitted import Event
from tests.data.test_loader import workers_of
from tests.small import lines
from tests.training.test_own import CONFIG, dataset, fit


def test_workers_are_kept_over_evaluations_and_phases(tmp_path: Path) -> None:
    families: dict[tuple[str, int], list[psutil.Process]] = {}

    def look(event: Event) -> None:
        families[event.kind, event.step] = workers_of(psutil.Process())

    config = replace(CONFIG, {"data": Data(batch_size=8, workers=1), "phases": (Phase(epochs=1), Phase(epochs=2))})
    train, validation = dataset(24, 0), dataset(11, 1)
    train.augment = validation.augment = None  # a worker would import this file for it, and with it JAX
    fit(tmp_path / "run", config=config, datasets=(train, validation), callbacks=(look,))
    assert len(families["step", 1]) == 1
    assert len(families["evaluation", 3]) == 2
    assert all(family == families["evaluation", 3] for (_, step), family in families.items() if step > 3)
    assert not workers_of(psutil.Process())


def test_metrics_are_fetched_when_the_following_line_is_due(tmp_path: Path) -> None:
    written: dict[tuple[str, int], list[int]] = {}

    def look(event: Event) -> None:
        there = lines(tmp_path / "run")
        written[event.kind, event.step] = [line["step"] for line in there if line["split"] == "train"]

    config = replace(CONFIG, {"phases": (Phase(epochs=1),), "log_every": 1})
    fit(tmp_path / "run", config=config, datasets=(dataset(40, 0), dataset(11, 1)), callbacks=(look,))
    assert [written["step", step] for step in (1, 2, 3, 4, 5)] == [[], [], [1], [1, 2], [1, 2, 3]]
    assert written["evaluation", 5] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("ending", ["stopped", "raised", "checkpoint"])
def test_no_line_is_held_back_where_a_state_is_saved(tmp_path: Path, ending: str) -> None:
    def end(event: Event) -> bool:
        if event.step == 3 and ending == "raised":
            raise RuntimeError("mine")
        if event.step == 4 and ending == "checkpoint":
            seen.extend(line["step"] for line in lines(tmp_path / "run"))
        return event.step == 3 and ending == "stopped"

    seen: list[int] = []
    every = {"checkpoint_every": 3} if ending == "checkpoint" else {}
    options: dict[str, Any] = {"config": replace(CONFIG, {"log_every": 1, **every}), "callbacks": (end,)}
    if ending == "raised":
        with pytest.raises(RuntimeError, match="mine"):
            fit(tmp_path / "run", datasets=(dataset(40, 0), None), **options)
        assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]
    else:
        fit(tmp_path / "run", datasets=(dataset(40, 0), None), **options)
        assert [line["step"] for line in lines(tmp_path / "run")][:3] == [1, 2, 3]
        assert seen == ([1, 2, 3] if ending == "checkpoint" else [])
