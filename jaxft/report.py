"""One page of all that a run has seen: `python -m jaxft.report --run DIR`; of several: `--compare DIR DIR`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command, start
from jaxft.config import Report
from jaxft.errors import UserError
from jaxft.reporting.console import make_console
from jaxft.run import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes a page about a run that is finished, under way, or broken off, or about several runs side by side."""

    run: Path | None = None
    """The run directory, in which report.html is written."""
    compare: tuple[Path, ...] = ()
    """Run directories to be put side by side instead."""
    output: Path | None = None
    """compare: the page, comparison.html by default."""
    how: Report = "full"
    """full has photos and, of a classifier, where it looks; photos has no more than them, plain none."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog=program("report"))
    if (options.run is None) is (not options.compare):
        raise UserError("Name a run by --run, or at least two by --compare.")
    if len(options.compare) == 1:
        raise UserError("--compare puts at least two runs side by side; name another, or use --run.")
    if options.output is not None and options.run is not None:
        raise UserError("--output names the page of --compare; that of a run is report.html in its directory.")
    runs = [RunDirectory.at(path) for path in (options.run, *options.compare) if path is not None]
    for run in runs:
        run.config()
    start()
    from jaxft.pages.making import comparison, report
    from jaxft.reporting.screen import Screen

    with Screen(make_console()) as screen, doing("writing the report"):
        if options.run is not None:
            page = report(runs[0], options.how)
        else:
            page = options.output or Path("comparison.html")
            comparison(runs, page, options.how)
        screen.say(f"Open {page}")


if __name__ == "__main__":
    run_command(main)
