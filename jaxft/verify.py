"""The proof that a model is PyTorch's: `python -m jaxft.verify --model resnet18`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command
from jaxft.errors import UserError
from jaxft.reporting.console import make_console

if TYPE_CHECKING:
    from converters.report import Report
    from converters.survey import Failed


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Runs PyTorch's model and ours on the same weights and images, in evaluation and training, and compares.

    The exit code is 1 where a figure is beyond rounding.
    """

    model: tuple[str, ...] = ()
    """Names of models; one alone is shown stage by stage."""
    all: bool = False
    """Every classifier of torchvision."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision on both sides."""
    jobs: int = 1
    """How many models at a time, each in a process of its own."""
    markdown: Path | None = None
    """Where to write the table, too."""

    def run(self) -> int:
        """Prints the table."""
        if not (self.all or self.model):
            raise UserError("There is nothing to verify; name models with --model, or take --all.")
        from jaxft.models import builder

        for name in self.model:
            builder(name)  # raises with the nearest names
        from converters import survey

        console = make_console()
        reports, failed = self._shown_alone() if len(self.model) == 1 and not self.all else self._shown_together()
        console.print(survey.summary(reports), highlight=False)
        for model, reason in failed:
            console.print(f"{model} failed: {reason}", highlight=False, markup=False)
        return int(bool(failed) or any(survey.misses(report) for report in reports))

    def _shown_alone(self) -> "tuple[list[Report], list[Failed]]":
        """One model, a row a stage."""
        from converters import survey
        from converters.verify import verify
        from jaxft.reporting.screen import Screen

        (name,) = self.model
        size, batch = survey.images(name)
        with Screen(make_console()) as screen, doing(f"comparing {name} with PyTorch's"):
            report = verify(name, size=size, batch=batch, dtype=self.dtype)
            screen.console.print(report.table())
        self._write([report])
        return [report], []

    def _shown_together(self) -> "tuple[list[Report], list[Failed]]":
        """Many models, a row each as soon as it is there."""
        from rich.live import Live

        from converters import survey

        names = survey.torchvisions() if self.all else self.model
        reports: list[Report] = []
        failed: list[survey.Failed] = []
        table = survey.table()
        with Live(table, console=make_console(), refresh_per_second=1, vertical_overflow="visible"):
            for report in survey.survey(names, self.dtype, self.jobs):
                if isinstance(report, survey.Failed):
                    failed.append(report)
                    table.add_row(report.model, "failed")
                else:
                    reports.append(report)
                    table.add_row(*survey.row(report))
                    self._write(reports)
        return reports, failed

    def _write(self, reports: "Sequence[Report]") -> None:
        """Writes the table of what is done so far, so that a survey that is stopped has not been in vain."""
        from converters import survey

        if self.markdown is not None:
            self.markdown.write_text(survey.markdown(reports, self.dtype))


def main() -> int:
    """The command."""
    return tyro.cli(Verify, prog=program("verify")).run()


if __name__ == "__main__":
    run_command(main)
