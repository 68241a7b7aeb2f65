"""Files from the network: cached, checked by hash, never half there."""

import os
from pathlib import Path

import pooch
import requests

from jaxft.errors import UserError


def cache_folder() -> Path:
    """`$JAXFT_CACHE`, or `jaxft` in the user's cache folder."""
    return Path(os.environ.get("JAXFT_CACHE") or pooch.os_cache("jaxft"))


def fetch(url: str, folder: Path, digest: str | None) -> Path:
    """The file behind an http(s) URL, downloaded into `folder` with a progress bar unless it is there already.

    Args:
        digest: the expected SHA-256 or its first digits; `sha1:...` for a SHA-1; None to accept whatever comes.

    Raises:
        UserError: the server cannot be reached or refuses, the disk cannot be written, or the hash differs; a file with
            another hash is deleted.
    """
    name = url.rstrip("/").rpartition("/")[2].partition("?")[0]
    path, unchecked = folder / name, folder / f".{name}.unchecked"
    if path.is_file():
        _check(path, url, digest)
        return path
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=30)
    try:
        unchecked.unlink(missing_ok=True)
        pooch.retrieve(url, known_hash=None, fname=unchecked.name, path=folder, downloader=downloader)
    except requests.RequestException as error:
        raise UserError(
            f"{url} could not be downloaded ({type(error).__name__}). Without a network, put the file there by hand: {path}"
        ) from error
    except OSError as error:
        raise UserError(f"{url} could not be saved in {folder} ({error}); set JAXFT_CACHE to a folder with room.") from error
    _check(unchecked, url, digest)
    os.replace(unchecked, path)
    return path


def _check(path: Path, url: str, digest: str | None) -> None:
    if digest is None:
        return
    algorithm, _, expected = digest.rpartition(":")
    found = pooch.file_hash(str(path), alg=algorithm or "sha256")
    if not found.startswith(expected.lower()):
        path.unlink()
        raise UserError(
            f"The file from {url} has the {algorithm or 'sha256'} {found}, {expected} was expected; it was deleted. "
            "Try again, and if it stays so, the file at the source has changed."
        )
