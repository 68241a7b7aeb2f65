"""`python -m converters inspect|convert|verify|mmdet-coverage`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from rich.live import Live
from rich.table import Table

from converters import survey
from converters.files import write
from converters.ledger import MismatchError, load_pretrained, to_torch
from converters.mmdet import coverage
from converters.recognition import fitting_models
from converters.report import Report
from converters.sources import load
from converters.verify import verify
from jaxft.cli import run_command
from jaxft.errors import UserError
from jaxft.models import abstract_model, list_models, with_head
from jaxft.models.paths import filled, values
from jaxft.reporting.console import make_console

console = make_console()


def described(model: str, num_classes: int | None) -> nnx.Module:
    """The abstract model of a name, or of an MMDetection configuration (a `.py` file or `mmdet::NAME`)."""
    if model.endswith(".py") or "::" in model:
        return coverage.abstract(model, num_classes)
    return abstract_model(model, num_classes)


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Shows what is in a checkpoint and, for a model, where each tensor goes."""

    source: tyro.conf.Positional[str]
    """A path, URL, package://MODULE/FILE or torchvision://NAME; FILE#model_ema for one of several in a file."""
    model: str | None = None
    """A model's name, or an MMDetection configuration; without it the checkpoint alone is shown, and which models it
    fits."""
    num_classes: int | None = None
    """Outputs of the model's last layer: 1000, or what the configuration says."""
    skip: tuple[str, ...] = ()
    """Patterns of names to leave out; @head is the layers that put out the classes."""

    def run(self) -> None:
        """Prints the table."""
        if self.model is not None:
            model = described(self.model, self.num_classes)
            skip = with_head(self.skip, partial(described, self.model))
            console.print(load_pretrained(model, self.source, skip=skip).table())
            return
        state = load(self.source)
        table = Table("key", "shape", "dtype", title=self.source)
        for key, tensor in state.items():
            table.add_row(key, "x".join(map(str, tensor.shape)) or "scalar", str(tensor.dtype))
        console.print(table)
        fits = ", ".join(fitting_models(state)) or "no model of jaxft by name"
        if "bbox_head" in {part for key in state for part in key.split(".")} and "by name" in fits:
            fits += "; if it is MMDetection's, give its configuration with --model"
        console.print(f"{len(state)} tensors; fits: {fits}")


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Converts a checkpoint between PyTorch's names and axes and Flax's; nothing may be left over."""

    source: tyro.conf.Positional[str]
    """The checkpoint: PyTorch's for `--to flax`, a file that `--to flax` wrote for `--to torch`."""
    model: str
    """The model's name, or an MMDetection configuration."""
    to: Literal["flax", "torch"]
    """Flax parameters by dotted path (.safetensors), or a PyTorch state dict (.pth or .safetensors)."""
    output: Path
    """The file to write; one that exists is not overwritten."""
    num_classes: int | None = None
    """Outputs of the model's last layer: 1000, or what the configuration says."""

    def run(self) -> None:
        """Writes the file."""
        if self.output.exists():
            raise UserError(f"{self.output} exists already and is not overwritten; choose another --output.")
        if self.to == "flax" and self.output.suffix != ".safetensors":
            raise UserError(f"Flax parameters are written as .safetensors; {self.output.name} ends otherwise.")
        model = described(self.model, self.num_classes)
        if self.to == "flax":
            console.print(load_pretrained(model, self.source).summary(), highlight=False)
            write({path: np.asarray(value) for path, value in values(model).items()}, self.output)
        else:
            arrays, wanted = load(self.source), values(model)
            odd = sorted(
                path
                for path in arrays.keys() | wanted.keys()
                if path not in arrays or path not in wanted or arrays[path].shape != wanted[path].shape
            )
            if odd:
                raise MismatchError(
                    f"{self.source} does not hold the Flax parameters of {self.model}: {', '.join(odd)}."
                )
            # One by one, so that a large model is in memory once.
            model = filled(model, {path: jnp.array(arrays.pop(path)) for path in wanted})
            write(to_torch(model), self.output)
        console.print(f"{self.output} written", highlight=False)


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
        names = survey.torchvisions() if self.all else self.model
        if not names:
            raise UserError("There is nothing to verify; name models with --model, or take --all.")
        for name in {*names} - {*list_models()}:
            abstract_model(name)  # raises with the nearest names
        reports: list[Report] = []
        failed: list[survey.Failed] = []
        if len(names) == 1:
            size, batch = survey.images(names[0])
            reports.append(verify(names[0], size=size, batch=batch, dtype=self.dtype))
            console.print(reports[0].table())
            self.write(reports)
        else:
            table = survey.table()
            with Live(table, console=console, refresh_per_second=1, vertical_overflow="visible"):
                for report in survey.survey(names, self.dtype, self.jobs):
                    if isinstance(report, survey.Failed):
                        failed.append(report)
                        table.add_row(report.model, "failed")
                    else:
                        reports.append(report)
                        table.add_row(*survey.row(report))
                        self.write(reports)
        console.print(survey.summary(reports), highlight=False)
        for model, reason in failed:
            console.print(f"{model} failed: {reason}", highlight=False, markup=False)
        return int(bool(failed) or any(survey.misses(report) for report in reports))

    def write(self, reports: Sequence[Report]) -> None:
        """Writes the table of what is done so far, so that a survey that is stopped has not been in vain."""
        if self.markdown is not None:
            self.markdown.write_text(survey.markdown(reports, self.dtype))


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Says which MMDetection configurations of a folder can be built, and counts why the others cannot."""

    folder: tyro.conf.Positional[Path]
    """Where the configurations are; folders below it are searched too, `_base_` is not."""
    all: bool = False
    """One line a configuration, with the number of its state dict's keys or the reason in full."""

    def run(self) -> None:
        """Prints the counts."""
        verdicts = []
        for verdict in coverage.survey(self.folder):
            verdicts.append(verdict)
            if self.all:
                told = f"{verdict.keys} keys" if verdict.keys else verdict.message
                console.print(f"{verdict.path.relative_to(self.folder)}: {told}", highlight=False, markup=False)
        table = Table("configurations", "not built because of")
        for reason, count in coverage.reasons(verdicts):
            table.add_row(str(count), reason)
        built = sum(1 for verdict in verdicts if verdict.keys)
        if built < len(verdicts):
            console.print(table)
        console.print(f"{built} of {len(verdicts)} configurations are built", highlight=False)


Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Coverage, tyro.conf.subcommand("mmdet-coverage")]
)


def main() -> int | None:
    """The command."""
    command: Inspect | Convert | Verify | Coverage = tyro.cli(Command, prog="python -m converters")
    return command.run()


if __name__ == "__main__":
    run_command(main)
