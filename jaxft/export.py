"""A trained model out of its run: `python -m jaxft.export --run DIR --format torch --output model.pth`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from jax import Array

from converters import to_torch
from converters.files import write
from jaxft.config import Size
from jaxft.console import make_console
from jaxft.data.canvas import needed_canvases
from jaxft.errors import UserError, run_command
from jaxft.run import FinishedRun, open_run
from jaxft.setup import classification, detection


def classifier_program(run: FinishedRun) -> bytes:
    """A classifier as a program of StableHLO, serialised by `jax.export`, weights included, for CPU, CUDA and TPU.

    It maps uint8 photos `[N, crop, crop, 3]`, any N, to float32 logits `[N, classes]`; normalisation is inside. Load it
    with `jax.export.deserialize(data).call(photos)`.
    """
    task = classification(run.config)

    def logits(pixels: Array) -> Array:
        return task.logits(run.model, pixels)

    side = run.config.images.crop
    (count,) = jax.export.symbolic_shape("n")
    return _serialised(logits, jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8))


def detector_program(run: FinishedRun, canvas: Size | None = None) -> bytes:
    """A detector as such a program, for one photo on a canvas of fixed height and width.

    It maps a uint8 photo `[1, H, W, 3]`, resized, in the upper left corner of zeros, and its size int32 `[1, 2]`
    (height, width) to a dictionary: `boxes` `[1, D, 4]` in pixels of the canvas, `scores`, `labels`, `valid` `[1, D]`,
    and `masks` where the model finds them. `canvas` is by default the first that evaluation uses, the landscape one.
    """
    task, settings = detection(run.config), run.config.detection
    height, width = canvas or (settings.canvases or needed_canvases(settings.test_scale, settings, cropped=False))[0]

    def found(pixels: Array, size: Array) -> dict[str, Array]:
        answer = task.predict(run.model, {"image": pixels, "size": size, "index": size[:, 0]})
        return {name: value for name, value in answer.items() if name not in ("size", "index")}

    photo, size = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return _serialised(found, photo, size)


def _serialised(program: Callable[..., Any], *arguments: jax.ShapeDtypeStruct) -> bytes:
    return bytes(jax.export.export(jax.jit(program), platforms=("cpu", "cuda", "tpu"))(*arguments).serialize())


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
    canvas: Size | None = None
    """stablehlo, detectors: height and width of the array that a photo is laid on; those of landscape photos in
    evaluation by default."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options)
    if options.output.exists():
        raise UserError(f"{options.output} exists already and is not overwritten; choose another --output.")
    if (options.output.suffix == ".safetensors") != (options.format == "safetensors"):
        raise UserError(f"The format {options.format} and the name {options.output.name} do not go together.")
    run = open_run(options.run, options.checkpoint)
    detector = run.config.data.has_objects
    if options.canvas is not None and not (detector and options.format == "stablehlo"):
        raise UserError("--canvas is for detectors as StableHLO; leave it out.")
    if options.format == "stablehlo":
        _write_bytes(detector_program(run, options.canvas) if detector else classifier_program(run), options.output)
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
