"""Where commands print."""

import sys

from rich.console import Console


def make_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """A console as wide as the terminal; in a file or a pipe wide enough that no table loses a column.

    Args:
        stderr: print there, where standard output is for a program to read.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Console(quiet=quiet, stderr=stderr, width=None if stream.isatty() else 180)
