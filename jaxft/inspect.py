"""What is in a checkpoint, and where each tensor goes: `python -m jaxft.inspect model.pth --model resnet18`."""

from dataclasses import dataclass
from functools import partial

import tyro
from rich.console import Group
from rich.table import Table

from jaxft.cli import program, run_command
from jaxft.reporting.console import make_console


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
        from converters.sources import check
        from jaxft.reporting.screen import Screen

        check(self.source)
        console = make_console()
        with Screen(console):
            console.print(self._listed() if self.model is None else self._mapped(self.model))

    def _listed(self) -> Group:
        """The checkpoint alone."""
        from converters.recognition import fitting_models
        from converters.sources import load

        state = load(self.source)
        table = Table("key", "shape", "dtype", title=self.source)
        for key, tensor in state.items():
            table.add_row(key, "x".join(map(str, tensor.shape)) or "scalar", str(tensor.dtype))
        fits = ", ".join(fitting_models(state)) or "no model of jaxft by name"
        if "bbox_head" in {part for key in state for part in key.split(".")} and "by name" in fits:
            fits += "; if it is MMDetection's, give its configuration with --model"
        return Group(table, f"{len(state)} tensors; fits: {fits}")

    def _mapped(self, model: str) -> Table:
        """The account of a model."""
        from converters.ledger import MismatchError, load_pretrained
        from converters.targets import target
        from jaxft.models import with_head

        filled = target(model, self.num_classes)
        skip = with_head(self.skip, partial(target, model))
        try:
            return load_pretrained(filled, self.source, skip=skip).table()
        except MismatchError as error:
            raise error.complete() from error


def main() -> None:
    """The command."""
    tyro.cli(Inspect, prog=program("inspect")).run()


if __name__ == "__main__":
    run_command(main)
