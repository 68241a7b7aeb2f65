"""A checkpoint between PyTorch's names and axes and Flax's: `python -m jaxft.convert model.pth --model NAME ...`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command
from jaxft.errors import UserError
from jaxft.reporting.console import make_console

if TYPE_CHECKING:
    from flax import nnx

    from converters.ledger import Ledger

NAMED = 10  # names in a line


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
    skip: tuple[str, ...] = ()
    """Patterns of names to leave out, as `pretrained.skip`; @head is the class-dependent layers. The file that is
    written lacks them."""

    def run(self) -> None:
        """Writes the file."""
        if self.output.exists():
            raise UserError(f"{self.output} exists already and is not overwritten; choose another --output.")
        if self.to == "flax" and self.output.suffix != ".safetensors":
            raise UserError(f"Flax parameters are written as .safetensors; {self.output.name} ends otherwise.")
        from converters.sources import check
        from converters.targets import check_target
        from jaxft.reporting.screen import Screen

        check_target(self.model)
        check(self.source)
        with Screen(make_console()) as screen, doing(f"converting {self.source}"):
            ledger, missing = self._to_flax() if self.to == "flax" else self._to_torch()
            screen.say(ledger.summary())
            skipped = [row.key for row in ledger.having("skipped")]
            for what, names in (("source", skipped), ("model", missing)):
                if names:
                    some = ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
                    screen.say(f"left out of the {what}: {some}")
            screen.say(f"{self.output} written")

    def _to_flax(self) -> "tuple[Ledger, list[str]]":
        """The account, and the paths of the model that are not written."""
        import jax
        import numpy as np

        from converters.files import write
        from converters.ledger import load_pretrained
        from jaxft.models.paths import values

        model, skip = self._target()
        ledger = load_pretrained(model, self.source, skip=skip)
        missing = [path for path, value in values(model).items() if isinstance(value, jax.ShapeDtypeStruct)]
        found = {path: np.asarray(value) for path, value in values(model).items() if path not in missing}
        write(found, self.output)
        return ledger, missing

    def _to_torch(self) -> "tuple[Ledger, list[str]]":
        """The same in the other direction."""
        from converters.files import write
        from converters.flax_files import load_flax
        from converters.ledger import to_torch

        model, skip = self._target()
        ledger = load_flax(model, self.source, skip=skip)
        missing = [row.path for row in ledger.having("new")]
        write(to_torch(model, without=missing), self.output)
        return ledger, missing

    def _target(self) -> "tuple[nnx.Module, tuple[str, ...]]":
        """The abstract model, and the patterns of what to skip with its head named."""
        from converters.targets import target
        from jaxft.models import with_head

        return target(self.model, self.num_classes), with_head(self.skip, partial(target, self.model))


def main() -> None:
    """The command."""
    tyro.cli(Convert, prog=program("convert")).run()


if __name__ == "__main__":
    run_command(main)
