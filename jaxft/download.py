"""Files from the network: cached, checked by hash, never half there."""

import os
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import pooch
import requests

from jaxft.errors import UserError


def cache_folder() -> Path:
    """`$JAXFT_CACHE`, or `jaxft` in the user's cache folder."""
    return Path(os.environ.get("JAXFT_CACHE") or pooch.os_cache("jaxft"))


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
        unchecked.unlink(missing_ok=True)
        downloader = pooch.HTTPDownloader(progressbar=True, timeout=30)
        pooch.retrieve(url, known_hash=None, fname=unchecked.name, path=folder, downloader=downloader)
    except requests.RequestException as error:
        by_hand = otherwise or f"put the file at {path}"
        raise UserError(f"{url} could not be downloaded ({_reason(error)}). Without a network, {by_hand}.") from error
    except OSError as error:
        raise UserError(
            f"{url} could not be saved in {folder} ({error}); set JAXFT_CACHE to another folder."
        ) from error
    _check(unchecked, url, digest)
    os.replace(unchecked, path)
    return path


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__


def _check(path: Path, url: str, digest: str | None) -> None:
    if digest is None:
        return
    algorithm = "sha1" if len(digest) == 40 else "sha256"
    found = pooch.file_hash(str(path), alg=algorithm)
    if not found.startswith(digest.lower()):
        path.unlink()
        raise UserError(
            f"{url} is not the file that was expected: its {algorithm} is {found}, not {digest}. It was deleted; "
            "try again, and if that fails, the file behind the URL has changed."
        )
