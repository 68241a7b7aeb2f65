"""A trained model out of its run: `python -m jaxft.export --run DIR --format torch --output model.pth`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import tyro
from jax import Array

from converters import to_torch
from converters.files import write
from jaxft.console import make_console
from jaxft.errors import UserError, run_command
from jaxft.run import FinishedRun, open_run
from jaxft.setup import classification


def stablehlo(run: FinishedRun) -> bytes:
    """The model as a program of StableHLO, serialised by `jax.export`, weights included, for CPU, CUDA and TPU.

    It maps uint8 photos `[N, crop, crop, 3]`, any N, to float32 logits `[N, classes]`; normalisation is inside. Load it
    with `jax.export.deserialize(data).call(photos)`.
    """
    task = classification(run.config)

    @jax.jit
    def logits(pixels: Array) -> Array:
        return task.logits(run.model, pixels)

    side = run.config.images.crop
    (count,) = jax.export.symbolic_shape("n")
    photos = jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8)
    return bytes(jax.export.export(logits, platforms=("cpu", "cuda", "tpu"))(photos).serialize())


@dataclass(frozen=True, kw_only=True)
class Options:
    """Exports a trained model."""

    run: Path
    """The run directory."""
    format: Literal["torch", "safetensors", "stablehlo"] = "torch"
    """A PyTorch state dict under its original names (.pth), the same as safetensors, or a StableHLO program."""
    output: Path
    """The file to write; one that exists is not overwritten."""
    checkpoint: Literal["best", "last"] = "best"
    """Which model of the run."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options)
    if options.output.exists():
        raise UserError(f"{options.output} exists already and is not overwritten; choose another --output.")
    if (options.output.suffix == ".safetensors") != (options.format == "safetensors"):
        raise UserError(f"The format {options.format} and the name {options.output.name} do not go together.")
    run = open_run(options.run, options.checkpoint)
    if options.format == "stablehlo" and run.config.data.has_objects:
        raise UserError("StableHLO is for classifiers; export a detector with --format torch or safetensors.")
    if options.format == "stablehlo":
        _write_bytes(stablehlo(run), options.output)
    else:
        # A prefix that was put before a whole checkpoint says that it was only a part of this model, a backbone.
        rename = {theirs: ours for theirs, ours in run.config.pretrained.rename.items() if theirs}
        write(to_torch(run.model, rename=rename), options.output)
    make_console().print(
        f"{options.output}: the {options.checkpoint} model (step {run.step}) of {options.run}", highlight=False
    )


def _write_bytes(data: bytes, output: Path) -> None:
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, output)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error}); choose another --output.") from error


if __name__ == "__main__":
    run_command(main)
