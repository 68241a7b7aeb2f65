"""A checkpoint that does not fit in many ways: ten reasons and the count, and all of them where they are asked for."""

from pathlib import Path

import numpy as np
import pytest

from converters.files import write
from converters.ledger import LISTED, MismatchError, load_pretrained
from jaxft import inspect, train
from jaxft.models import BUILDERS
from tests.converters.tiny import Tiny, random_state, tiny
from tests.small import call, user_error

pytest_plugins = ("tests.runs",)


def odd_state() -> dict[str, np.ndarray]:
    """Fifteen keys with no place, one of another shape, and all but that of ours without a source."""
    state = {f"other.{number}": np.zeros(3, np.float32) for number in range(15)}
    return state | {"fc.bias": np.zeros(9, np.float32)}


def test_ten_reasons_are_shown_and_the_others_counted() -> None:
    with pytest.raises(MismatchError) as caught:
        load_pretrained(tiny(), odd_state())
    first, *lines = str(caught.value).splitlines()
    problems = caught.value.problems
    unfilled = len(random_state(tiny())) - 1
    counters = sum(key.endswith("num_batches_tracked") for key in random_state(tiny()))
    assert len(problems) == len(set(problems)) == 15 + 1 + unfilled - counters  # a checkpoint without counters has none
    assert f"({len(problems)} reasons)" in first
    assert len(lines) == LISTED + 1 == 11
    assert lines[:-1] == [f"  - {problem}" for problem in problems[:LISTED]]
    assert lines[-1] == f"  - ... and {len(problems) - LISTED} more"
    assert {problem.split()[0] for problem in problems[:LISTED]} == {"fc.bias", "source", "our"}  # every kind
    assert str(caught.value.complete()).splitlines() == [first, *(f"  - {problem}" for problem in problems)]


def test_no_more_than_ten_are_all_shown() -> None:
    state = random_state(tiny()) | {f"other.{number}": np.zeros(3, np.float32) for number in range(LISTED)}
    with pytest.raises(MismatchError) as caught:
        load_pretrained(tiny(), state)
    assert len(str(caught.value).splitlines()) == 1 + LISTED
    assert "more" not in str(caught.value)


def test_inspect_lists_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILDERS, "tiny", Tiny)  # type: ignore[arg-type]
    file = tmp_path / "odd.safetensors"
    write(odd_state(), file)
    with pytest.raises(MismatchError, match=rf"more; python -m jaxft\.inspect {file} --model NAME lists all of them"):
        load_pretrained(tiny(), file)
    listed = user_error(call(inspect.main, file, "--model", "tiny"))
    assert all(f"source key other.{number} has no place" in listed for number in range(15))


def test_a_mismatch_is_found_before_photos_are_decoded(config_file: Path, tmp_path: Path) -> None:
    write(odd_state(), tmp_path / "odd.safetensors")
    photo = tmp_path / "photos"
    for split in ("train", "test"):
        for name in ("blue", "green", "red"):
            (photo / split / name).mkdir(parents=True)
            for number in range(8):
                (photo / split / name / f"{number}.png").write_bytes(b"no picture")
    words = ("--data.root", photo, "--pretrained.source", tmp_path / "odd.safetensors")
    message = user_error(call(train.main, "--config", config_file, "--workdir", tmp_path / "run", *words))
    assert "does not fit this Small" in message
    assert message.count("\n  - ") == LISTED + 1
