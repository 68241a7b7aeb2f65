"""How benchmarks run programs in processes of their own."""

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sides
from benchmarks.sides import Program, SideError, Timing, interleaved, once, ours, theirs

HERE = "tests.benchmarks.programs"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "PAUSE", 0.01)


def program(name: str, /, **options: Any) -> Program:
    return Program(f"{HERE}:{name}", options)


def measured(program: Program, rounds: int = 1) -> Timing:
    outcome = interleaved({"it": program}, rounds)["it"]
    assert isinstance(outcome, Timing), outcome
    return outcome


def test_programs_run_in_turn_after_two_runs_each(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    programs = {name: program("noting", name=name, file=str(notes)) for name in "AB"}
    outcomes = interleaved(programs, 2)
    assert notes.read_text() == "AABBABAB"
    for outcome in outcomes.values():
        assert isinstance(outcome, Timing)
        assert len(outcome.seconds) == 2
        assert 0.2 < outcome.median < outcome.ready
        assert max(outcome.idle_cpu) < 0.1  # it waits without computing
        assert outcome.peak_bytes > 1e6


def test_a_short_program_runs_often_in_a_turn() -> None:
    timing = measured(program("sleeping", seconds=0.02))
    assert timing.runs > 2
    assert 0.02 <= timing.median < 0.2


def test_what_a_program_prints_is_no_answer() -> None:
    assert measured(program("printing")).values == ["done"]


def test_a_program_that_fails_is_a_sentence_and_others_go_on() -> None:
    outcomes = interleaved({"bad": program("failing"), "good": program("sleeping", seconds=0.01)}, 1)
    assert str(outcomes["bad"]) == "bad: ValueError: this program cannot be"
    assert isinstance(outcomes["good"], Timing)


def test_a_process_that_dies_is_a_sentence() -> None:
    outcomes = interleaved({"early": program("dying", after=0), "late": program("dying", after=3)}, 3)
    for name in ("early", "late"):
        assert str(outcomes[name]) == f"{name}: its process ended with code 7 (last words)."


def test_what_is_not_done_at_the_deadline_is_an_error() -> None:
    outcome = interleaved({"slow": program("sleeping", seconds=60)}, 1, deadline=time.monotonic() + 0.5)["slow"]
    assert str(outcome) == "slow: out of time."


def test_once_raises_what_went_wrong() -> None:
    with pytest.raises(SideError, match="cannot be"):
        once(f"{HERE}:failing")


def test_only_our_process_has_our_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLIBC_TUNABLES", "JAXFT_MALLOC"):
        monkeypatch.delenv(name, raising=False)
    mine = measured(ours(f"{HERE}:variable", name="GLIBC_TUNABLES"))
    assert "mmap_max" in mine.values[0]
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=3")  # a person's own choice is ours, too
    mine = measured(ours(f"{HERE}:variable", name="GLIBC_TUNABLES"))
    (program,) = theirs(f"{HERE}:variable", name="GLIBC_TUNABLES").values()
    options = {key: value for key, value in program.options.items() if key != "compiled"}
    assert mine.values == ["glibc.malloc.arena_max=3"]
    assert measured(Program(program.function, options, program.environment)).values == [None]


def test_pytorch_runs_as_asked() -> None:
    asked = {kind: list(theirs("a:b", kind)) for kind in ("eager", "compile", "best")}
    assert asked == {"eager": ["eager"], "compile": ["compiled"], "best": ["eager", "compiled"]}
