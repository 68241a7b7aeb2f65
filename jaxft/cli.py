"""What commands share: parsing, errors, the compile cache, and the processes of one run."""

import argparse
import dataclasses
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import tyro

from jaxft.config import Config
from jaxft.download import cache_folder
from jaxft.errors import UserError
from jaxft.run import RunDirectory

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command to its exit code; a `UserError` or a full disk is printed and becomes 2, Ctrl-C becomes 130."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"error: The disk cannot be written ({error}); free some space and go on.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def start(*, distributed: bool = False) -> None:
    """Sets a process up before it computes: joins the other processes of the run, and keeps compiled programs on the
    disk, so that a second start does not wait for them. The environment's own settings of JAX's compilation cache win.

    Raises:
        UserError: the other processes are not known or cannot be reached.
    """
    import jax

    if distributed:
        from jaxft.processes import join_processes

        join_processes()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


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


def parse(arguments: list[str]) -> tuple[Options, Path]:
    """The options and the run directory of a command line; `resume` says whether there is something to go on with.

    Raises:
        UserError: no configuration is named, or it is not valid.
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
        from converters.mmdet.training import load_any

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
    return dataclasses.replace(options, resume=resuming), run.path
