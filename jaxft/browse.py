"""A page about data before anything is trained on them: `python -m jaxft.browse --config FILE`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxft.activity import doing
from jaxft.cli import run_command, start, with_config
from jaxft.config import Config
from jaxft.data.download import check_root
from jaxft.errors import UserError
from jaxft.reporting.console import make_console
from jaxft.run import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes a page about the data of a configuration: classes, sizes, boxes, what the model will be fed, photos that
    occur twice or in both splits, and what is odd. Any field of the configuration can be given on the command line."""

    config: str
    """The configuration, as of `jaxft train`."""
    output: Path = Path("browse.html")
    """The page."""
    run: Path | None = None
    """A run on these data, whose best model says which labels are suspicious: those that it finds most wrong."""
    settings: Annotated[Config, tyro.conf.arg(name="")]


def main() -> None:
    """The command."""
    options = with_config(Options, sys.argv[1:], "browse")
    if options.output.is_dir():
        raise UserError(f"{options.output} is a folder; --output names a file, such as browse.html.")
    run = None if options.run is None else RunDirectory.at(options.run)
    if run is not None:
        run.config()
    check_root(options.settings.data)
    start()
    from jaxft.pages.browsing import write_browse
    from jaxft.reporting.screen import Screen

    with Screen(make_console()) as screen, doing("looking at the data"):
        for line in write_browse(options.settings, run, options.output):
            screen.say(line)
        screen.say(f"Open {options.output}")


if __name__ == "__main__":
    run_command(main)
