"""Which MMDetection configurations can be built and trained: `python -m jaxft.mmdet_coverage FOLDER`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command
from jaxft.errors import UserError
from jaxft.reporting.console import make_console


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Says which MMDetection configurations of a folder can be built and trained, and counts why the others cannot."""

    folder: tyro.conf.Positional[Path]
    """Where the configurations are; folders below it are searched too, `_base_` is not."""
    all: bool = False
    """One line a configuration, with the number of its state dict's keys and the reason in full."""

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
                    state = "trainable" if verdict.trainable else "not trainable: "
                    told = (f"{verdict.keys} keys, {state}" if verdict.keys else "") + verdict.message
                    screen.say(f"{verdict.path.relative_to(self.folder)}: {told}")
            built = [verdict for verdict in verdicts if verdict.keys]
            refused = [verdict for verdict in verdicts if not verdict.keys]
            for some, title in ((refused, "not built because of"), (built, "built, but not trainable because of")):
                if counted := coverage.reasons(some):
                    table = Table("configurations", title)
                    for reason, count in counted:
                        table.add_row(str(count), reason)
                    screen.console.print(table)
            trainable = sum(1 for verdict in built if verdict.trainable)
            screen.say(f"{len(built)} of {len(verdicts)} configurations are built, {trainable} of them are trainable")


def main() -> None:
    """The command."""
    tyro.cli(Coverage, prog=program("mmdet_coverage")).run()


if __name__ == "__main__":
    run_command(main)
