"""The command line of `jaxft.train`: a configuration file, any of its fields, and the run directory."""

import argparse
import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from converters.mmdet.training import load_any
from jaxft.config import Config, differences
from jaxft.errors import UserError
from jaxft.run import RunDirectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Fine-tunes a model. Any field of the configuration can be given on the command line."""

    config: Path | None = None
    """The configuration file; one of MMDetection will do, and mmdet::NAME for one of the installed package."""
    workdir: Path | None = None
    """The run directory; runs/NAME OF THE CONFIGURATION by default."""
    resume: bool = False
    """Go on with the run in the run directory, from its last checkpoint."""
    dry_run: bool = False
    """Print what would happen to every parameter, then stop."""
    distributed: bool = False
    """This is one of several processes of one run; JAX finds the others on a pod, or by JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID."""
    settings: Annotated[Config, tyro.conf.arg(name="")]


def parse(arguments: list[str]) -> tuple[Options, RunDirectory]:
    """The options and the run directory of a command line; `resume` says whether there is something to go on with.

    Raises:
        UserError: no configuration is named, it is not valid, or a run is resumed with other settings than its own.
        SystemExit: an option is unknown or of the wrong type (code 2), or help was asked for (code 0).
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", type=Path)
    early.add_argument("--workdir", type=Path)
    early.add_argument("--resume", action="store_true")
    known, _ = early.parse_known_args(arguments)
    helping = not {"-h", "--help"}.isdisjoint(arguments)
    if known.config is None and not (known.resume and known.workdir) and not helping:
        raise UserError("Name a configuration with --config FILE (see configs/), or a run with --workdir DIR --resume.")
    run = RunDirectory(known.workdir or Path("runs") / (known.config.stem if known.config else ""))
    resuming = known.resume and not helping and run.exists()
    if known.config is not None:
        defaults = load_any(known.config)
    elif helping:
        defaults = Config()
    else:
        defaults = run.config()
    options = tyro.cli(
        Options,
        args=arguments,
        default=Options(settings=defaults),
        config=(tyro.conf.AvoidSubcommands,),
        prog="python -m jaxft.train",
    )
    if resuming and (changes := differences(run.config(), options.settings)):
        raise UserError(
            f"{run.path} was started with other settings ({', '.join(changes)}). Resume it with its own, for example "
            "without --config, or start another run with --workdir."
        )
    return dataclasses.replace(options, resume=resuming), run
