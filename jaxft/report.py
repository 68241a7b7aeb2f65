"""One page of all that a run has seen: `python -m jaxft.report --run DIR`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command
from jaxft.reporting.console import make_console
from jaxft.run import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes report.html into a run directory, of a run that is finished, under way, or broken off."""

    run: Path
    """The run directory."""
    pictures: bool = True
    """Photos in the page, where the data are still there."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog=program("report"))
    run = RunDirectory.at(options.run)
    config = run.config()
    from jaxft.reporting.screen import Screen
    from jaxft.run_page import photos_of, write_page

    with Screen(make_console()) as screen:
        with doing("listing the data"):
            photos = photos_of(run, config) if options.pictures else None
        page = write_page(run, photos)
        screen.say(f"Open {page}")


if __name__ == "__main__":
    run_command(main)
