import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from jaxft.data.download import fetch_archive
from jaxft.errors import UserError

FILES = {"hotdog/train/a/1.jpg": b"1", "hotdog/test/a/2.jpg": b"2"}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a local web server and the folder that it serves."""
    folder = tmp_path / "site"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def _zip(path: Path, files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path.read_bytes()


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_an_archive_is_fetched_once(site: tuple[str, Path], tmp_path: Path, algorithm: str) -> None:
    url, served = site
    digest = hashlib.new(algorithm, _zip(served / "hotdog.zip", FILES)).hexdigest()
    folder = fetch_archive(f"{url}/hotdog.zip", digest, tmp_path / "cache")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.jpg")} == {"train/a/1.jpg", "test/a/2.jpg"}
    assert (folder / "test/a/2.jpg").read_bytes() == b"2"
    assert list((tmp_path / "cache").iterdir()) == [folder]
    (served / "hotdog.zip").unlink()
    assert fetch_archive(f"{url}/hotdog.zip", digest, tmp_path / "cache") == folder


def test_several_entries_at_the_top_stay(site: tuple[str, Path], tmp_path: Path) -> None:
    url, served = site
    digest = hashlib.sha1(_zip(served / "a.zip", {"train/1.jpg": b"1", "test/2.jpg": b"2"})).hexdigest()
    folder = fetch_archive(f"{url}/a.zip", digest, tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == ["test", "train"]


def test_a_wrong_hash_is_refused_and_nothing_is_kept(site: tuple[str, Path], tmp_path: Path) -> None:
    url, served = site
    _zip(served / "hotdog.zip", FILES)
    with pytest.raises(UserError, match=r"hotdog\.zip is not the file that was expected: its sha1"):
        fetch_archive(f"{url}/hotdog.zip", "0" * 40, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_offline(site: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:1/a\.zip could not be downloaded .*--data\.root"):
        fetch_archive("http://127.0.0.1:1/a.zip", "0" * 40, tmp_path / "cache")
    with pytest.raises(UserError, match=r"missing\.zip could not be downloaded .*404"):
        fetch_archive(f"{site[0]}/missing.zip", "0" * 40, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"])
def test_paths_that_lead_out_are_refused(site: tuple[str, Path], tmp_path: Path, name: str) -> None:
    url, served = site
    digest = hashlib.sha1(_zip(served / "evil.zip", {"a/1.jpg": b"1", name: b"evil"})).hexdigest()
    with pytest.raises(UserError, match="leads out of it"):
        fetch_archive(f"{url}/evil.zip", digest, tmp_path / "cache")
    assert not list(tmp_path.rglob("evil.txt"))


def test_not_a_zip_file(site: tuple[str, Path], tmp_path: Path) -> None:
    url, served = site
    (served / "a.zip").write_bytes(b"<html>")
    with pytest.raises(UserError, match="not a whole zip file"):
        fetch_archive(f"{url}/a.zip", hashlib.sha1(b"<html>").hexdigest(), tmp_path / "cache")
