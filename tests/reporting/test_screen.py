"""What is being done is said where it is done, and shown on a terminal and without one."""

import hashlib
import io
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import pytest
from rich.console import Console

from jaxft import train
from jaxft.activity import doing, interrupted_while, shown_by
from jaxft.data.cores import on_all_cores
from jaxft.download import fetch
from jaxft.reporting import screen
from jaxft.reporting.screen import Screen
from tests.small import call
from tests.web import served

pytest_plugins = ("tests.runs",)


class Told:
    """A display that notes what it is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.counts: list[tuple[int, int]] = []
        self.depth = 0

    def begin(self, what: str) -> None:
        self.begun.append(what)
        self.depth += 1

    def count(self, done: int, total: int) -> None:
        self.counts.append((done, total))

    def end(self) -> None:
        self.depth -= 1


@pytest.fixture
def told() -> Iterator[Told]:
    display = Told()
    with shown_by(display):
        yield display
    assert display.depth == 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line after 0.1 s of silence instead of 30."""
    monkeypatch.setattr(screen, "QUIET", 0.1)


def wait_for(condition: Callable[[], Any]) -> None:
    """Waits for a condition, at most a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# Activities


def test_without_a_display_nothing_is_shown() -> None:
    with doing("anything") as counted:
        counted(1, 2)


def test_an_interrupt_knows_the_innermost_activity() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, doing("training"), doing("compiling"):
        raise KeyboardInterrupt
    assert interrupted_while(caught.value) == "compiling"
    assert interrupted_while(KeyboardInterrupt()) == ""


def test_files_are_counted_in_order(told: Told) -> None:
    assert on_all_cores(abs, [-3, 1, -2], "checking") == [3, 1, 2]
    assert told.begun == ["checking"]
    assert told.counts == [(1, 3), (2, 3), (3, 3)]


def test_an_interrupt_cancels_what_has_not_begun() -> None:
    begun = itertools.count()

    def work(item: int) -> None:
        next(begun)
        if item == 0:
            raise KeyboardInterrupt
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt) as caught:
        on_all_cores(work, range(10_000), "checking")
    assert interrupted_while(caught.value) == "checking"
    assert next(begun) < 5000


def test_a_download_is_counted(told: Told, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = b"weights" * 300_000
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.pth").write_bytes(content)
    with served(tmp_path / "site") as (url, _):
        fetch(f"{url}/a.pth", tmp_path / "cache", hashlib.sha256(content).hexdigest())
    assert told.begun == [f"downloading {url}/a.pth (MB)"]
    assert {total for _, total in told.counts} == {2}
    assert [done for done, _ in told.counts] == sorted(done for done, _ in told.counts)
    assert told.counts[-1] == (2, 2)
    assert capfd.readouterr() == ("", "")  # no bar beside the display's


# Screens


def test_without_a_terminal_a_line_says_what_lasts(quick: None) -> None:
    output = io.StringIO()
    with Screen(Console(file=output, width=100)), doing("starting"):
        with doing("checking photos") as counted:
            counted(1200, 24000)
            wait_for(lambda: "still checking photos: 1,200 of 24,000 (0 s)\n" in output.getvalue())
        with doing("compiling"):
            wait_for(lambda: "still compiling (0 s)\n" in output.getvalue())
        wait_for(lambda: output.getvalue().endswith("still starting (1 s)\n"))


def test_lines_that_stay_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "QUIET", 30.0)
    output = io.StringIO()
    with Screen(Console(file=output)) as shown, doing("starting"):
        shown.say("[one] line")
    assert output.getvalue() == "[one] line\n"


def test_another_process_than_the_first_shows_nothing(quick: None) -> None:
    output = io.StringIO()
    with Screen(Console(file=output, quiet=True)) as shown, doing("starting"):
        shown.say("a line")
        time.sleep(0.3)
    assert output.getvalue() == ""


def test_a_terminal_has_a_live_line_for_what_is_done_and_for_what_counts() -> None:
    output = io.StringIO()

    def shows(present: str, absent: str = "nothing") -> Callable[[], bool]:
        """From now on; the display repeats itself ten times a second."""
        output.truncate(0)
        return lambda: present in output.getvalue() and absent not in output.getvalue().split(present)[-1]

    with Screen(Console(file=output, force_terminal=True, width=100)) as shown, doing("starting"):
        wait_for(shows("starting"))
        with doing("checking [photos]") as counted:
            counted(3, 10)
            wait_for(shows("checking [photos]", absent="starting"))
            assert "3 of 10" in output.getvalue()
        wait_for(shows("starting", absent="checking"))
        with doing("training"):
            shown.progress("training epoch 2, steps", 5, 8, "loss 0.25")
            wait_for(shows("5 of 8  loss 0.25", absent="starting"))
            with doing("compiling"):
                wait_for(shows("compiling"))
                assert "training epoch 2" in output.getvalue()


# A run


def test_a_run_says_what_it_is_doing_from_its_first_line_on(config_file: Path, tmp_path: Path) -> None:
    begun: list[str] = []
    real = Screen.begin

    def begin(shown: Screen, what: str) -> None:
        begun.append(what)
        real(shown, what)

    run = tmp_path / "run"
    with mock.patch.object(Screen, "begin", begin):
        assert call(train.main, "--config", config_file, "--workdir", run).code == 0
    first = [what.partition(" in ")[0] for what in begun[: begun.index("training")]]
    assert list(dict.fromkeys(first)) == [
        "starting",
        "listing the data",
        "loading no weights",
        "checking the photos",
        "drawing initial values",
    ]
    loop = begun[begun.index("training") + 1 :]
    assert loop[0] == "compiling the training step of phase 1, program 1"
    assert loop[-1] == "saving"
    assert {"evaluating epoch 1", "compiling the evaluation, program 1", "evaluating epoch 2", "drawing"} <= set(loop)


def test_a_run_without_a_terminal_prints_while_it_compiles(quick: None, config_file: Path, tmp_path: Path) -> None:
    real = jax.stages.Lowered.compile

    def slow(lowered: jax.stages.Lowered, *arguments: Any, **settings: Any) -> Callable:
        time.sleep(0.5)
        return real(lowered, *arguments, **settings)

    with mock.patch.object(jax.stages.Lowered, "compile", slow):
        result = call(train.main, "--config", config_file, "--workdir", tmp_path / "run")
    assert result.code == 0, result
    assert "still compiling the training step of phase 1, program 1 (" in result.out
    assert "still compiling the evaluation, program 1 (" in result.out
    steps = [line.split()[3] for line in result.out.splitlines() if "loss" in line and "validation" not in line]
    assert steps == ["2/6", "3/6", "4/6", "6/6"]
