"""Where a run directory lies: on a disk, or in a bucket of Google Cloud Storage; one kind of path for both."""

import importlib.util
import logging
import os
import re
import uuid
from pathlib import Path
from typing import cast

from jaxft.errors import UserError

BUCKET = "gs://"
_SCHEME = re.compile(r"([a-z][a-z0-9]+):/{1,2}(.*)", re.DOTALL)  # pathlib makes one slash of two


def place(name: str | Path) -> Path:
    """The path of a run directory. What `gs://BUCKET/...` names has the methods of `pathlib.Path`, too.

    Raises:
        UserError: it is an address of another kind, or the bucket cannot be reached.
    """
    text = str(name)  # a bucket's path says by `os.fspath` that it is below /gs
    found = _SCHEME.fullmatch(text)
    if found is None:
        return Path(text)
    scheme, rest = found.groups()
    if f"{scheme}://" != BUCKET:
        raise UserError(
            f"{scheme}://{rest} is no place for a run directory: Orbax writes checkpoints to disks and to {BUCKET} "
            "alone. Mount it as a folder, or choose another one."
        )
    if not rest.partition("/")[2].strip("/"):
        raise UserError(
            f"{BUCKET}{rest} is a whole bucket; name a folder in it, such as {BUCKET}{rest.strip('/')}/run."
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{BUCKET}{rest} needs gcsfs, which is not installed; pip install 'jaxft[gcs]'.")
    logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it warns of what does not matter
    import fsspec
    from etils import epath

    # A list that is kept would not show what other processes write meanwhile.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    path = cast(Path, epath.Path(f"{BUCKET}{rest}"))
    try:
        path.exists()
    except Exception as error:  # gcsfs, google.auth and aiohttp have no kind in common
        raise UserError(
            f"{path} cannot be reached ({_first_line(error)}); look at the bucket's name, and at who you are there "
            "(gcloud auth application-default login)."
        ) from error
    return path


def in_bucket(path: Path) -> bool:
    """Whether a path is one of a bucket and not of a disk."""
    return str(path).startswith(BUCKET)


def absolute(path: Path) -> Path:
    """A path that does not depend on the working directory."""
    return path if in_bucket(path) else path.resolve()


def check_writable(path: Path) -> None:
    """Looks whether something could be made at a path.

    Raises:
        UserError: it could not.
    """
    if in_bucket(path):
        probe = path.parent / f".{path.name}-{uuid.uuid4()}"  # each of several processes has its own
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except Exception as error:
            raise UserError(
                f"The run directory {path} cannot be written ({_first_line(error)}); choose another --workdir, or ask "
                "for the right to write there (roles/storage.objectUser)."
            ) from error
        return
    parent = next(folder for folder in (path, *path.resolve().parents) if os.path.exists(folder))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        reason = "cannot be written" if parent.is_dir() else "is no folder"
        raise UserError(f"The run directory {path} cannot be written ({parent} {reason}); choose another --workdir.")


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that nobody ever sees a part of it."""
    if in_bucket(path):
        try:
            path.write_bytes(data)  # an object appears when all of it is there
        except Exception as error:
            raise UserError(f"{path} could not be written ({_first_line(error)}).") from error
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def remove_folder(path: Path) -> None:
    """Removes a folder and all that is in it."""
    if in_bucket(path):
        path.rmtree()  # type: ignore[attr-defined]
    else:
        import shutil

        shutil.rmtree(path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
