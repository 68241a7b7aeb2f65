"""Memory that commands keep: by one start with the C library's settings, which nothing else gets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxft import memory
from tests.small import ROOT, environment

pytestmark = pytest.mark.skipif(not memory._is_glibc(), reason="the settings are those of glibc")

# Python runs it as it starts, each time: says how often the command has been started, and with what.
WATCH = """
import json, os, sys
with open(os.environ["STARTS"], "a") as file:
    print(json.dumps([sys.orig_argv[1:], os.environ.get("GLIBC_TUNABLES"), os.getpid(), os.getcwd()]), file=file)
"""
# A command that says what is left of it all.
COMMAND = """
import json, os, sys
from jaxft.memory import keep_memory
keep_memory()
keep_memory()
print(json.dumps([sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), sys.stdin.read(), sys.warnoptions]))
"""


def started(folder: Path, *python: str, **variables: str) -> tuple[list[list], list, int]:
    """The starts of `python PYTHON`, what it printed, and its process id."""
    for name, text in {"sitecustomize.py": WATCH, "starts": ""}.items():
        (folder / name).write_text(text)
    places = os.pathsep.join([str(folder), str(ROOT)])
    variables = {"PYTHONPATH": places, "STARTS": str(folder / "starts"), "JAXFT_MALLOC": "", **variables}
    command = [sys.executable, *python]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(**variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate("what it reads", timeout=60)
    starts = [json.loads(line) for line in (folder / "starts").read_text().splitlines()]
    return starts, json.loads(out) if out.startswith("[") else [], process.pid


def command_file(folder: Path, name: str = "jaxft") -> Path:
    """A script of this name, as an installation leaves it in its `bin`."""
    script = folder / name
    script.write_text(COMMAND)
    return script


def test_a_command_starts_once_more_with_all_that_it_had(tmp_path: Path) -> None:
    words = ("-X", "utf8", "-W", "ignore", str(command_file(tmp_path)), "train", "--data.root", "a b", "")
    starts, (arguments, inherited, read, warnings), pid = started(tmp_path, *words)
    assert [start[0] for start in starts] == [list(words)] * 2
    assert [start[1] for start in starts] == [None, memory.TUNABLES]
    assert [start[2] for start in starts] == [pid] * 2  # whoever started it can signal it
    assert [start[3] for start in starts] == [str(tmp_path)] * 2
    assert arguments == ["train", "--data.root", "a b", ""]
    assert read == "what it reads"
    assert "ignore" in warnings
    assert inherited is None  # what it starts has the C library as it is


def test_a_module_is_started_as_a_module(tmp_path: Path) -> None:
    words = ("-m", "jaxft.train", "--config", "nowhere.py")
    starts, _, _ = started(tmp_path, *words)
    assert [start[:2] for start in starts] == [[list(words), None], [list(words), memory.TUNABLES]]


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (("jaxft",), {"GLIBC_TUNABLES": "glibc.malloc.check=1"}),
        (("jaxft",), {"JAXFT_MALLOC": "0"}),
        (("jaxft", "--help"), {}),
        (("notebook",), {}),
    ],
    ids=["the user's own settings", "switched off", "help", "another program"],
)
def test_what_is_left_as_it_is(words: tuple[str, ...], variables: dict[str, str], tmp_path: Path) -> None:
    starts, (_, inherited, _, _), _ = started(tmp_path, str(command_file(tmp_path, words[0])), *words[1:], **variables)
    assert [start[1] for start in starts] == [inherited] == [variables.get("GLIBC_TUNABLES")]


def test_an_import_changes_nothing(tmp_path: Path) -> None:
    lines = "import jaxft, jaxft.train, jaxft.memory; print('[]')"
    assert len(started(tmp_path, "-c", lines)[0]) == 1


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for said in (None, "musl 1.2"):
        monkeypatch.setattr(os, "confstr", lambda _, said=said: said)
        assert not memory._is_glibc()
    monkeypatch.delattr(os, "confstr")  # Windows
    assert not memory._is_glibc()


FAULTS = """
import resource
from jaxft.memory import keep_memory
keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**26)[::4096] = b"x" * 2**14
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print([faults(), faults()])
"""


def test_memory_that_is_taken_again_is_there(tmp_path: Path) -> None:
    script = command_file(tmp_path)
    script.write_text(FAULTS)
    kept, given_back = (started(tmp_path, str(script), JAXFT_MALLOC=switch)[1] for switch in ("", "0"))
    assert max(kept) < 100
    assert min(given_back) > 1000


LARGE = """
import jaxft.memory as memory
from jaxft.memory import keep_memory
keep_memory()
blocks = [bytearray(2**26) for _ in range(4)]
last = bytearray(2**10)
del blocks
before = memory._held()
memory.give_back_if_large()
between = memory._held()
memory.SHARE = 0
memory.give_back_if_large()
print([before, between, memory._held(), int(bool(memory._kept))])
"""


def test_more_than_a_share_is_given_back(tmp_path: Path) -> None:
    script = command_file(tmp_path)
    script.write_text(LARGE)
    before, between, after, kept = started(tmp_path, str(script))[1]
    assert before > 2**28
    assert abs(between - before) < 2**22
    assert after < before - 2**27
    assert not kept


class _Device:
    platform, id = "gpu", 3

    def memory_stats(self) -> dict[str, int]:
        return {"peak_bytes_in_use": 12_340_000_000}


def test_the_peak_is_told_of_the_process_and_its_devices() -> None:
    process, device = memory.peak([_Device()]).split(", ")
    assert 0.01 < float(process.removesuffix(" GB by this process")) < 100
    assert device == "12.3 GB by gpu 3"
