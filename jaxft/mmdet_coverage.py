"""Which MMDetection configurations can be built: `python -m jaxft.mmdet_coverage FOLDER`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command
from jaxft.errors import UserError
from jaxft.reporting.console import make_console


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Says which MMDetection configurations of a folder can be built, and counts why the others cannot."""

    folder: tyro.conf.Positional[Path]
    """Where the configurations are; folders below it are searched too, `_base_` is not."""
    all: bool = False
    """One line a configuration, with the number of its state dict's keys or the reason in full."""

    def run(self) -> None:
        """Prints the counts."""
        if not self.folder.is_dir():
            raise UserError(f"There is no folder {self.folder}; one with configurations was expected.")
        from rich.table import Table

        from converters.mmdet import coverage
        from jaxft.reporting.screen import Screen

        verdicts = []
        with Screen(make_console()) as screen, doing("building configurations"):
            for verdict in coverage.survey(self.folder):
                verdicts.append(verdict)
                if self.all:
                    told = f"{verdict.keys} keys" if verdict.keys else verdict.message
                    screen.say(f"{verdict.path.relative_to(self.folder)}: {told}")
            table = Table("configurations", "not built because of")
            for reason, count in coverage.reasons(verdicts):
                table.add_row(str(count), reason)
            built = sum(1 for verdict in verdicts if verdict.keys)
            if built < len(verdicts):
                screen.console.print(table)
            screen.say(f"{built} of {len(verdicts)} configurations are built")


def main() -> None:
    """The command."""
    tyro.cli(Coverage, prog=program("mmdet_coverage")).run()


if __name__ == "__main__":
    run_command(main)
