"""Files from the network: cached, checked by hash, never half there."""

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from jaxft.activity import Counted, doing, is_shown
from jaxft.errors import UserError

if TYPE_CHECKING:
    import requests

MEGABYTE = 10**6


def cache_folder() -> Path:
    """`$JAXFT_CACHE`, or `jaxft` in the user's cache folder."""
    if folder := os.environ.get("JAXFT_CACHE"):
        return Path(folder)
    import pooch

    return Path(pooch.os_cache("jaxft"))


def fetch(url: str, folder: Path, digest: str | None, *, otherwise: str | None = None) -> Path:
    """The file behind an http(s) URL, downloaded into `folder` with a progress bar unless it is there already.

    Args:
        digest: the expected SHA-1 (40 digits), the SHA-256 or its first digits, or None to accept whatever comes.
        otherwise: what a person without a network can do; by default, to put the file in its place by hand.

    Raises:
        UserError: the server cannot be reached or refuses, the disk cannot be written, or the hash differs; a file with
            another hash is deleted.
    """
    name = PurePosixPath(urlparse(url).path).name
    path, unchecked = folder / name, folder / f".{name}.unchecked"
    if path.is_file():
        _check(path, url, digest)
        return path
    try:
        with doing(f"downloading {url} (MB)") as counted:
            _download(url, unchecked, counted, otherwise or f"put the file at {path}")
        _check(unchecked, url, digest)
        os.replace(unchecked, path)
    finally:
        if unchecked.exists():
            unchecked.unlink()
    return path


def _download(url: str, path: Path, counted: Counted, otherwise: str) -> None:
    # Only what downloads waits for these two.
    import pooch
    import requests

    bar = _Bar(counted) if is_shown() else True
    if is_shown():
        pooch.get_logger().setLevel("WARNING")  # it names the URL, too
    try:
        path.unlink(missing_ok=True)
        downloader = pooch.HTTPDownloader(progressbar=bar, timeout=30)
        pooch.retrieve(url, known_hash=None, fname=path.name, path=path.parent, downloader=downloader)
    except requests.RequestException as error:
        raise UserError(f"{url} could not be downloaded ({_reason(error)}). Without a network, {otherwise}.") from error
    except OSError as error:
        raise UserError(
            f"{url} could not be saved in {path.parent} ({error}); set JAXFT_CACHE to another folder."
        ) from error


class _Bar:
    """What pooch takes as a progress bar: bytes, counted as megabytes."""

    def __init__(self, counted: Counted) -> None:
        self.total, self._done, self._counted = 0, 0, counted

    def update(self, count: int) -> None:
        self._done += count
        self._counted(round(self._done / MEGABYTE), round(self.total / MEGABYTE))

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def _reason(error: "requests.RequestException") -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__


def _check(path: Path, url: str, digest: str | None) -> None:
    if digest is None:
        return
    import pooch

    algorithm = "sha1" if len(digest) == 40 else "sha256"
    found = pooch.file_hash(str(path), alg=algorithm)
    if not found.startswith(digest.lower()):
        path.unlink()
        raise UserError(
            f"{url} is not the file that was expected: its {algorithm} is {found}, not {digest}. It was deleted; "
            "try again, and if that fails, the file behind the URL has changed."
        )
