"""Archives from the network: fetched once, checked, unpacked."""

import os
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from jaxft.config import Data
from jaxft.data.tfds import Tfds
from jaxft.download import cache_folder, fetch
from jaxft.errors import UserError
from jaxft.parts import files_of

READ_FOLDERS = ("folder", "csv", "coco", "voc")  # the sources that read what is in `data.root`


def data_root(data: Data) -> Path:
    """The folder that `data.root` names; where it does not exist and there is a `data.url`, that archive's folder.

    Raises:
        UserError: the archive cannot be had.
    """
    root = Path(data.root).expanduser()
    if not root.is_dir() and data.url is not None:
        return fetch_archive(data.url, data.sha1 or "", cache_folder() / "data")
    return root


def download(data: Data) -> None:
    """Has on this machine what a source reads, where it is elsewhere so far.

    Raises:
        UserError: it cannot be had.
    """
    if data.source == "tfds" and data.name is not None:
        Tfds(data.name, data.train, Path(data.root).expanduser())
    elif data.source in READ_FOLDERS:
        data_root(data)


def check_root(data: Data, option: str = "--data.root") -> None:
    """Looks whether the folder is there that a source reads, unless it can be downloaded.

    Args:
        option: what names it on the command line.

    Raises:
        UserError: it is not, or `data.splits` makes another field useless that is given.
    """
    root = Path(data.root).expanduser()
    read = data.source in READ_FOLDERS and not Path(data.annotation_file).is_absolute()
    if data.splits:
        read = _check_splits(data, option)
    if read and data.url is None and not root.is_dir():
        raise UserError(f"There is no folder {root} with the data; name the right one with {option}.")


def _check_splits(data: Data, option: str) -> bool:
    """Whether `data.splits` looks for something below `data.root`.

    Raises:
        UserError: a field is given that nothing would read then, or the source has no use for `data.splits`.
    """
    if data.source not in ("coco", "voc"):
        raise UserError(f"data.splits is for the data sources coco and voc; {data.source!r} is neither of them.")
    used = [data.train]
    if data.validation is not None and not data.holds_out:
        used.append(data.validation)
    if not data.splits.keys() >= set(used):
        return True
    for name in ("annotation_file", "image_folder"):
        if (found := getattr(data, name)) != getattr(Data(), name):
            raise UserError(
                f"data.{name} is {found!r}, but data.splits says itself what {' and '.join(used)} are made of; leave "
                f"data.{name} out."
            )
    below = any(files.below_root for split in data.splits.values() for files in files_of(split))
    if not below and data.root != Data().root:
        raise UserError(
            f"data.root is {data.root!r}, but all paths of data.splits are absolute, so that nothing would be read "
            f"there; leave {option} out, or change the paths of data.splits."
        )
    return below


def fetch_archive(url: str, digest: str, cache: Path) -> Path:
    """Download a zip file unless it was unpacked here before, check it, and unpack it.

    Both steps end with a rename, so a process that is killed leaves nothing behind that looks complete.

    Args:
        url: of the zip file.
        digest: its SHA-1 or SHA-256 in hexadecimal.
        cache: folder to keep it in; made if missing.

    Returns:
        The folder with the archive's contents; a single folder at the top of the archive is left out.

    Raises:
        UserError: the URL cannot be reached, what came is not the file that was expected, or it is not a safe zip file.
    """
    folder = cache / f"{PurePosixPath(urlparse(url).path).stem}-{digest[:8]}"
    if not folder.is_dir():
        by_hand = "fetch the file elsewhere, unpack it, and pass the folder with --data.root FOLDER"
        archive = fetch(url, cache, digest, otherwise=by_hand)
        _unpack(archive, folder)
        archive.unlink()
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked = Path(scratch, "content")
        unpacked.mkdir()
        try:
            with zipfile.ZipFile(archive) as content:
                for name in content.namelist():
                    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                        raise UserError(f"{archive} was not unpacked, because the path {name!r} leads out of it.")
                content.extractall(unpacked)
        except zipfile.BadZipFile as error:
            raise UserError(f"{archive} is not a whole zip file ({error}); delete it and try again.") from error
        entries = list(unpacked.iterdir())
        top = entries[0] if len(entries) == 1 and entries[0].is_dir() else unpacked
        os.replace(top, folder)
