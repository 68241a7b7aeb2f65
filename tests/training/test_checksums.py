"""Checksums of a folder's files: nothing that happens to them goes unnoticed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxft.training.checksums import LIST, damage, write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files, listed."""
    item = tmp_path / "model"
    (item / "d").mkdir(parents=True)
    (item / "d" / "12ab").write_bytes(bytes(range(20)))
    (item / "d" / "of two words").write_bytes(b"")
    (item / "manifest").write_bytes(b"{}")
    write_checksums(item)
    assert damage(item) is None
    return item


@pytest.mark.parametrize("name", ["d/12ab", "manifest", LIST])
def test_every_bit_counts(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(flipped)
        found = damage(folder)
        assert found is not None, bit
        assert found.startswith(f"model/{name} ")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "d" / "12ab").unlink(), "model/d/12ab is missing"),
        (lambda folder: (folder / "d" / "12ab").write_bytes(b"12345"), "model/d/12ab has 5 of 20 bytes"),
        (lambda folder: (folder / "d" / "of two words").write_bytes(b"1"), "model/d/of two words has 1 of 0 bytes"),
        (lambda folder: (folder / LIST).unlink(), f"model/{LIST} is missing"),
        (lambda folder: (folder / LIST).write_bytes(b""), f"model/{LIST} is damaged"),
        (lambda folder: (folder / LIST).write_bytes((folder / LIST).read_bytes()[:-30]), f"model/{LIST} is damaged"),
        (shutil.rmtree, "model is missing"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(folder)
    assert damage(folder) == message


def test_what_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error", str(folder / "manifest"))

    monkeypatch.setattr("jaxft.training.checksums._checksum", failing)
    assert damage(folder) == f"{folder / 'manifest'} cannot be read (Input/output error)"


def test_files_that_came_later_do_not_matter(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"Finder was here")
    assert damage(folder) is None
