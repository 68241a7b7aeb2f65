"""A trained model out of its run: `python -m jaxft.export --run DIR --format torch --output model.pth`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command, start
from jaxft.errors import UserError
from jaxft.fields import HeightWidth
from jaxft.precision import precise
from jaxft.reporting.console import make_console
from jaxft.run import RunDirectory

if TYPE_CHECKING:
    from jaxft.training.finished import FinishedRun


def stablehlo(run: "FinishedRun", pad_shape: HeightWidth | None = None, temperature: float = 1.0) -> bytes:
    """A run's prediction as a StableHLO program, serialized by `jax.export`, weights included, for CPU, CUDA and TPU.

    What it maps to what is said by the task's `program`; it takes uint8 pixels, and normalization is inside. It is as
    precise as the run's evaluation. Load it with `jax.export.deserialize(data).call(photos)`. The logits of a task that
    has some are divided by a temperature.
    """
    import jax

    from jaxft.models.paths import values
    from jaxft.training.step import computing

    config = run.config
    model = computing(run.model, values(run.model), config.dtype)
    program = config.task.task(config.dtype).program(model, pad_shape)
    predict = precise(program.function, config.precision)
    function = jax.jit(predict if temperature == 1 else lambda *photos: predict(*photos) / temperature)
    exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(*program.arguments)
    return bytes(exported.serialize())


@dataclass(frozen=True, kw_only=True)
class Options:
    """Exports a trained model."""

    run: Path
    """The run directory."""
    format: Literal["torch", "safetensors", "stablehlo", "peft"] = "torch"
    """A PyTorch state dict under its original names (.pth), the same as safetensors, or a StableHLO program; low-rank
    additions are merged. Names of classes and preprocessing lie inside, or beside a .pth in NAME.pth.json. Or the
    additions and the head alone, as PEFT's adapter."""
    output: Path
    """The file to write, or of peft the folder; what exists is not overwritten."""
    checkpoint: Literal["best", "last"] | int | None = None
    """Which model of the run; by default the best where an evaluation has chosen one, and else the last. A number is
    the step of one that `keep_checkpoints` has kept."""
    pad_shape: HeightWidth | None = None
    """stablehlo, detectors: height and width that a photo is padded to; those of landscape photos in evaluation by
    default."""
    calibrated: bool = False
    """stablehlo: divide the logits by the temperature that `jaxft calibrate` has found, inside the program."""
    distributed: bool = False
    """This is one of several processes, of which the first exports; see `jaxft train --help`."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog=program("export"))
    if options.output.exists():
        raise UserError(f"{options.output} exists already and is not overwritten; choose another --output.")
    if (options.output.suffix == ".safetensors") != (options.format == "safetensors"):
        raise UserError(f"The format {options.format} and the name {options.output.name} do not go together.")
    if options.pad_shape is not None and options.format != "stablehlo":
        raise UserError("--pad-shape is for detectors as StableHLO; leave it out.")
    if options.calibrated and options.format != "stablehlo":
        raise UserError(
            f"The format {options.format} holds parameters alone, which have no place for a temperature; leave "
            "--calibrated out, and divide the logits by the temperature of calibration.json."
        )
    directory = RunDirectory.at(options.run)
    directory.check()
    start(distributed=options.distributed)
    import jax

    first = jax.process_index() == 0
    from jaxft.api import save
    from jaxft.calibration import read_calibration, temperature_of
    from jaxft.inference import host_arrays
    from jaxft.reporting.screen import Screen
    from jaxft.training.finished import open_run

    with Screen(make_console(quiet=not first)) as screen, doing("opening the run"):
        run = open_run(options.run, options.checkpoint)  # which takes all processes
        if not first:
            return
        with doing(f"exporting to {options.output}"):
            if options.format == "peft":
                from converters.peft import save_adapter
                from jaxft.training.model import ModelSource

                whole = ModelSource(run.config).head()
                _check_adapter(run, whole)
                save_adapter(run.model, options.output, whole=whole, base=run.config.pretrained.source)
            elif options.format == "stablehlo":
                temperature = temperature_of(directory, host_arrays(run.model)) if options.calibrated else 1.0
                _write_bytes(stablehlo(run, options.pad_shape, temperature), options.output)
            else:
                save(run, options.output)
        screen.say(f"{options.output}: the {run.checkpoint} model (step {run.step}) of {directory.path}")
        if (calibration := read_calibration(directory)) is not None:
            done = "are" if options.calibrated else "are not"
            more = " (--calibrated does so)" if options.format == "stablehlo" and not options.calibrated else ""
            screen.say(f"Its logits {done} divided by the temperature {calibration.temperature:.4f}{more}.")


def _check_adapter(run: "FinishedRun", head: Sequence[str]) -> None:
    """Refuses an adapter that would lack something that the run has changed."""
    from flax import nnx

    from jaxft.models.paths import matches, values
    from jaxft.training.model import ModelSource, head_named

    if run.config.pretrained.source is None:
        raise UserError(
            "An adapter goes with the weights that a run started from, but this one started from random ones; export "
            "--format torch."
        )
    for phase in head_named(ModelSource(run.config)).phases:
        for path in values(run.model, nnx.Param):
            rule = next(rule for rule in phase.rules if matches(rule.pattern, path))
            known = ".lora." in f".{path}" or any(matches(part, path) for part in head)
            if not known and (not rule.frozen or rule.batch_norm == "batch"):
                raise UserError(
                    f"An adapter holds additions and the head alone, but the run has trained {path}, too; export "
                    "--format torch, which merges them."
                )


def _write_bytes(data: bytes, output: Path) -> None:
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, output)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error}); choose another --output.") from error
    finally:
        if temporary.exists():
            temporary.unlink()


if __name__ == "__main__":
    run_command(main)
