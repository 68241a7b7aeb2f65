"""The speed of a run, measured with a clock that the test moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jaxft.reporting import progress
from jaxft.reporting.console import make_console
from jaxft.reporting.progress import Course, Reporter
from jaxft.reporting.screen import Screen


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("time.perf_counter", found)
    return found


def steps(reporter: Reporter, clock: Clock, *seconds: float) -> None:
    """Steps of 8 images, each of which waits a quarter of its time for data."""
    for number, each in enumerate(seconds, 1):
        clock.now += each
        reporter.advance(number, 8, each / 4)


@contextmanager
def reporting(folder: Path) -> Iterator[Reporter]:
    course = Course(10, (100,), pictures=False, tracker="none", settings={})
    with (
        Screen(make_console(quiet=True)) as screen,
        Reporter(folder, start_step=0, course=course, screen=screen) as reporter,
    ):
        yield reporter


def test_a_step_lasts_from_one_to_the_next_without_what_is_done_between(clock: Clock, tmp_path: Path) -> None:
    with reporting(tmp_path) as found:
        with found.doing("compiling the step"):
            clock.now += 50
            with found.doing("saving"):
                clock.now += 5
        steps(found, clock, 1, 2, 3)
        speed = found.speed()
        assert speed["step_seconds"] == pytest.approx(2)
        assert speed["images_per_second"] == pytest.approx(24 / 6)
        assert speed["data_wait"] == pytest.approx(0.25)
        assert speed["goodput"] == pytest.approx(4.5 / 61)
        assert not any(name.endswith(("_most", "_process")) for name in speed)
        steps(found, clock, 7)
        assert found.speed()["step_seconds"] == pytest.approx(7)
        assert found.speed()["step_seconds"] == 0


def test_of_several_processes_the_one_that_waits_longest_is_named(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {2: "0.75", 3: "0.0"}
    monkeypatch.setattr(progress, "say", lambda topic, text: told.update({0: text}))
    monkeypatch.setattr(progress, "said_last", lambda topic: told)
    monkeypatch.setattr("jax.process_count", lambda: 4)
    with reporting(tmp_path) as found:
        steps(found, clock, 1, 1)
        speed = found.speed()
        assert (speed["data_wait_most"], speed["data_wait_process"]) == (0.75, 2)
        assert speed["step_seconds"] == pytest.approx(1)
        found.train(2, speed | {"loss": 1.0, "learning_rate": 0.1})
        assert "25% waiting for data (process 2: 75%)" in found._figures
