"""`jaxft.download`."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxft.download import cache_folder, fetch
from jaxft.errors import UserError
from tests.web import NOWHERE, served

CONTENT = b"weights" * 1000
SHA1, SHA256 = hashlib.sha1(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "a.pth").write_bytes(CONTENT)
    (folder / "half.pth").write_bytes(CONTENT)
    with served(folder) as (url, asked):
        yield url, asked


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights"


@pytest.mark.parametrize("digest", [None, SHA1, SHA256, SHA256.upper(), SHA256[:8]])
def test_a_file_is_fetched_once(site: tuple[str, list[str]], cache: Path, digest: str | None) -> None:
    url, asked = site
    for _ in range(2):
        path = fetch(f"{url}/a.pth?download=1", cache, digest)
        assert path == cache / "a.pth"
        assert path.read_bytes() == CONTENT
    assert asked == ["/a.pth?download=1"]
    assert list(cache.iterdir()) == [path]


@pytest.mark.parametrize(("digest", "algorithm"), [("0" * 40, "sha1"), ("0" * 64, "sha256"), ("0" * 8, "sha256")])
def test_another_hash_is_refused_and_nothing_is_kept(
    site: tuple[str, list[str]], cache: Path, digest: str, algorithm: str
) -> None:
    url, _ = site
    found = {"sha1": SHA1, "sha256": SHA256}[algorithm]
    with pytest.raises(UserError, match=rf"a\.pth is not the file that was expected: its {algorithm} is {found}"):
        fetch(f"{url}/a.pth", cache, digest)
    assert list(cache.iterdir()) == []


def test_a_cached_file_that_was_changed_is_deleted(site: tuple[str, list[str]], cache: Path) -> None:
    url, _ = site
    fetch(f"{url}/a.pth", cache, SHA256).write_bytes(b"something else")
    with pytest.raises(UserError, match="It was deleted; try again"):
        fetch(f"{url}/a.pth", cache, SHA256)
    assert fetch(f"{url}/a.pth", cache, SHA256).read_bytes() == CONTENT


def test_a_download_that_breaks_off_leaves_nothing_to_be_taken_for_the_file(
    site: tuple[str, list[str]], cache: Path
) -> None:
    url, _ = site
    with pytest.raises(UserError, match=r"half\.pth could not be downloaded"):
        fetch(f"{url}/half.pth", cache, None)
    assert not (cache / "half.pth").exists()


def test_what_a_killed_download_left_is_replaced(site: tuple[str, list[str]], cache: Path) -> None:
    url, _ = site
    cache.mkdir(parents=True)
    (cache / ".a.pth.unchecked").write_bytes(CONTENT[:100])
    assert fetch(f"{url}/a.pth", cache, None).read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == ["a.pth"]


def test_without_a_network_the_message_says_what_to_do(site: tuple[str, list[str]], cache: Path) -> None:
    with pytest.raises(UserError, match=rf"no connection\)\. Without a network, put the file at {cache}/a\.pth\."):
        fetch(f"{NOWHERE}/a.pth", cache, None)
    with pytest.raises(UserError, match=r"Without a network, go there\."):
        fetch(f"{NOWHERE}/a.pth", cache, None, otherwise="go there")
    with pytest.raises(UserError, match=r"b\.pth could not be downloaded \(404 Not Found\)"):
        fetch(f"{site[0]}/b.pth", cache, None)
    assert list(cache.iterdir()) == []


def test_a_folder_that_cannot_be_written(site: tuple[str, list[str]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a regular file")
    with pytest.raises(UserError, match=r"could not be saved in .*; set JAXFT_CACHE"):
        fetch(f"{site[0]}/a.pth", tmp_path / "file" / "weights", None)


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("JAXFT_CACHE", "")
    assert cache_folder().name == "jaxft"
