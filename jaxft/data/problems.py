"""All that is wrong with a folder or a file in one message, instead of one problem after the other."""

from collections.abc import Sequence
from pathlib import Path

from jaxft.data.photo_check import stored_sizes
from jaxft.errors import UserError
from jaxft.fields import Check

_NAMED_AT_MOST = 20


def refuse(where: str, problems: Sequence[str]) -> None:
    """Raises one UserError for all problems of a file, where there are any; up to 20 are named."""
    if len(problems) == 1:
        raise UserError(f"{where}: {problems[0]}.")
    if problems:
        raise UserError(f"{where} has {len(problems)} mistakes:{_listed(problems)}")


def check_photos(files: Sequence[Path], where: Path, how: Check) -> None:
    """Looks at every photo, so that a bad one is found before training and not in the middle of it.

    Args:
        where: the folder that they lie in, for the message.
        how: see `jaxft.data.photo_check.stored_sizes`.

    Raises:
        UserError: some files are missing, empty, truncated, corrupt, too large, or no images; up to 20 are named.
    """
    bad = [size for size in stored_sizes(files, how, f"the photos in {where}") if isinstance(size, str)]
    if bad:
        raise UserError(f"{len(bad)} of the {len(files)} images in {where} cannot be used:{_listed(bad)}")


def _listed(problems: Sequence[str]) -> str:
    more = [f"... and {len(problems) - _NAMED_AT_MOST} more"] if len(problems) > _NAMED_AT_MOST else []
    return "".join(f"\n  {line}" for line in [*problems[:_NAMED_AT_MOST], *more])
