"""Where commands print."""

import sys

from rich.console import Console


def make_console(*, quiet: bool = False) -> Console:
    """A console as wide as the terminal; in a file or a pipe wide enough that no table loses a column."""
    return Console(quiet=quiet, width=None if sys.stdout.isatty() else 180)
