"""The one exception that a person is meant to read, and how a command ends with it."""

import errno
import sys
from collections.abc import Callable
from typing import NoReturn

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class UserError(Exception):
    """Something outside the program is wrong: a file, an option, a network, a checkpoint.

    The message is one sentence (or one list) that says what was found, what was expected and what to do. Commands print
    it and exit with code 2, without a traceback.
    """


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command to its exit code; a `UserError` or a full disk is printed and becomes 2, Ctrl-C becomes 130."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"error: The disk cannot be written ({error}); free some space and go on.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
