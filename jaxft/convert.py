"""A checkpoint between PyTorch's names and axes and Flax's: `python -m jaxft.convert model.pth --model NAME ...`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command
from jaxft.errors import UserError
from jaxft.reporting.console import make_console


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
        from converters.sources import check
        from converters.targets import check_target
        from jaxft.reporting.screen import Screen

        check_target(self.model)
        check(self.source)
        with Screen(make_console()) as screen, doing(f"converting {self.source}"):
            if self.to == "flax":
                screen.say(self._to_flax())
            else:
                self._to_torch()
            screen.say(f"{self.output} written")

    def _to_flax(self) -> str:
        import numpy as np

        from converters.files import write
        from converters.ledger import load_pretrained
        from converters.targets import target
        from jaxft.models.paths import values

        model = target(self.model, self.num_classes)
        ledger = load_pretrained(model, self.source)
        write({path: np.asarray(value) for path, value in values(model).items()}, self.output)
        return ledger.summary()

    def _to_torch(self) -> None:
        import jax.numpy as jnp

        from converters.files import write
        from converters.ledger import MismatchError, to_torch
        from converters.sources import load
        from converters.targets import target
        from jaxft.models.paths import filled, values

        model = target(self.model, self.num_classes)
        arrays, wanted = load(self.source), values(model)
        odd = sorted(
            path
            for path in arrays.keys() | wanted.keys()
            if path not in arrays or path not in wanted or arrays[path].shape != wanted[path].shape
        )
        if odd:
            raise MismatchError(f"{self.source} does not hold the Flax parameters of {self.model}: {', '.join(odd)}.")
        # One by one, so that a large model is in memory once.
        model = filled(model, {path: jnp.array(arrays.pop(path)) for path in wanted})
        write(to_torch(model), self.output)


def main() -> None:
    """The command."""
    tyro.cli(Convert, prog=program("convert")).run()


if __name__ == "__main__":
    run_command(main)
