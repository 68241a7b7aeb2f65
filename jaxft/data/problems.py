"""All that is wrong with a folder or a file in one message, instead of one problem after the other."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import PIL.Image

from jaxft.data.cores import on_all_cores
from jaxft.data.photo import Photo
from jaxft.errors import UserError

_NAMED_AT_MOST = 20


def refuse(where: str, problems: Sequence[str]) -> None:
    """Raises one UserError for all problems of a file, where there are any; up to 20 are named."""
    if len(problems) == 1:
        raise UserError(f"{where}: {problems[0]}.")
    if problems:
        raise UserError(f"{where} has {len(problems)} mistakes:{_listed(problems)}")


def check_photos(files: Sequence[Path], where: Path) -> None:
    """Decodes every photo once, on all cores, so that a bad one is found before training and not in the middle of it.

    Args:
        where: the folder that they lie in, for the message.

    Raises:
        UserError: some files are missing, empty, truncated, corrupt, too large, or no images; up to 20 are named.
    """
    # The filter makes a too large picture an error here instead of a warning on the terminal.
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        reasons = on_all_cores(_why_unreadable, files, f"checking the photos in {where}")
    bad = [reason for reason in reasons if reason]
    if bad:
        raise UserError(f"{len(bad)} of the {len(files)} images in {where} cannot be used:{_listed(bad)}")


def _listed(problems: Sequence[str]) -> str:
    more = [f"... and {len(problems) - _NAMED_AT_MOST} more"] if len(problems) > _NAMED_AT_MOST else []
    return "".join(f"\n  {line}" for line in [*problems[:_NAMED_AT_MOST], *more])


def _why_unreadable(path: Path) -> str | None:
    try:
        Photo(path).rgb()
    except UserError as error:
        return str(error)
    return None
