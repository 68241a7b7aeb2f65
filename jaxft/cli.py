"""What commands share: their names, errors, Ctrl-C, the compile cache, and the command line of training."""

import argparse
import dataclasses
import errno
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

import tyro

from jaxft.activity import interrupted_while
from jaxft.config import Config, load_with_parent
from jaxft.config_file import find, run_name
from jaxft.errors import INTERNAL, MemoryExhaustedError, UserError
from jaxft.failures import give_way, leave_others, tell
from jaxft.memory import keep_memory
from jaxft.run import RunDirectory
from jaxft.training.stopping import Interrupted, leave

T = TypeVar("T")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def program(command: str) -> str:
    """What a command is called in its help: as it was typed, `jaxft train` or `python -m jaxft.train`."""
    return sys.argv[0] if sys.argv[0].startswith("jaxft ") else f"python -m jaxft.{command}"


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command to its exit code; the other processes of its run, if there are any, end with it where it fails.

    A `UserError` or a full disk is printed and becomes 2, a device without memory 3, numbers that are not finite 4;
    Ctrl-C and SIGTERM are printed and become 130 and 143.
    """
    keep_memory()
    # XLA's alarms ("Very slow compile?") are about XLA, and the display says what takes long. Before JAX is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _signals_interrupt(), _errors_for_a_person():
            code = main() or 0
    except UserError as error:
        tell(str(error), error.code)
        print(f"error: {error}", file=sys.stderr)
        code = error.code
    except KeyboardInterrupt as interrupt:
        code = interrupted(interrupt)
    except Exception as error:
        lost = give_way(error)
        if lost is not None:
            tell(str(lost), lost.code)
            print(f"error: {lost}", file=sys.stderr)
            leave_others(lost.code)
        if not tell(f"{type(error).__name__}: {error}", INTERNAL):
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        code = INTERNAL
    leave_others(code)
    leave(code)


@contextmanager
def _errors_for_a_person() -> Iterator[None]:
    """Within, what a library says of a full disk or of a device without memory becomes a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(f"The disk cannot be written ({error}); free some space and go on.") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise MemoryExhaustedError(
            f"A device has too little memory ({first}); lower --data.batch-size, raise --optimizer.accumulate, or take "
            "--precision bfloat16."
        ) from error


def interrupted(interrupt: KeyboardInterrupt, kept: str = "nothing is kept") -> int:
    """Says in one line what Ctrl-C or SIGTERM ended and what is kept; the exit code."""
    activity, code = interrupted_while(interrupt), 128 + _number(interrupt)
    sentence = f"Stopped{f' while {activity}' if activity else ''}; {kept}."
    tell(sentence, code)
    print(sentence, file=sys.stderr)
    return code


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Within, SIGTERM raises `Terminated`, so that what is half done is cleared away, and no interrupt is lost.

    Python prints and forgets what is raised while it collects garbage, where JAX has a function of its own; then the
    signal is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def receive(number: int, frame: object) -> None:
        raise Terminated

    def resend(complaint: "sys.UnraisableHookArgs") -> None:
        if isinstance(complaint.exc_value, KeyboardInterrupt):
            threading.Timer(0.05, os.kill, (os.getpid(), _number(complaint.exc_value))).start()
        elif not isinstance(complaint.exc_value, Interrupted):  # which is noticed without being raised
            shown(complaint)

    before, shown = signal.signal(signal.SIGTERM, receive), sys.unraisablehook
    sys.unraisablehook = resend
    try:
        yield
    finally:
        if sys.unraisablehook is resend:  # a damaged checkpoint leaves another one, which must outlive the command
            sys.unraisablehook = shown
        signal.signal(signal.SIGTERM, before)


def _number(interrupt: KeyboardInterrupt) -> int:
    return signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT


def start(*, distributed: bool = False, preemptible: bool = False) -> None:
    """Sets a process up before it computes: joins the other processes of the run, and keeps compiled programs on the
    disk, so that a second start does not wait for them. The environment's own settings of JAX's compilation cache win.

    Args:
        distributed: whether this is one of several processes, which the environment may say, too.
        preemptible: of several processes, whether SIGTERM is a notice that all agree upon; see `jaxft.processes.join`.

    Raises:
        UserError: the other processes are not known or cannot be reached.
    """
    import jax

    from jaxft.download import cache_folder

    # Tracing makes many small objects that live on; looking through all of them again and again takes its time.
    gc.set_threshold(100_000, 50, 100)
    if distributed or launched_as_several():
        from jaxft.processes import join

        join(preemptible=preemptible)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def launched_as_several() -> bool:
    """Whether the environment says that this is one of several processes: JAX's own variables, a step of Slurm, Open
    MPI, or a TPU slice with several hosts on Kubernetes. No with JAXFT_DISTRIBUTED=0."""
    if os.environ.get("JAXFT_DISTRIBUTED") == "0":
        return False
    counts = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    several = any(os.environ.get(name, "").isdigit() and int(os.environ[name]) > 1 for name in counts)
    return several or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Fine-tunes a model. Any field of the configuration can be given on the command line."""

    config: str | None = None
    """The configuration: a file, jaxft:NAME for one that is shipped, a file of MMDetection, or mmdet::NAME for one of
    the installed package."""
    workdir: Path | None = None
    """The run directory; runs/NAME OF THE CONFIGURATION by default."""
    resume: bool = False
    """Go on with the run in the run directory, from its last checkpoint."""
    dry_run: bool = False
    """Print what would happen to each part of the model, and sizes; then stop."""
    full: bool = False
    """With --dry-run: a row a parameter."""
    compile: bool = False
    """With --dry-run: compile the training step of each phase, and print seconds and bytes. The run that follows finds
    the programs in the cache, but for those with oneDNN (CPUs, from jaxlib 0.12 on), which cannot be kept."""
    distributed: bool = False
    """This is one of several processes of one run; JAX finds the others on a TPU pod, or by JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. Where these, Slurm, Open MPI or Kubernetes say so it need not be given."""
    passed_over: tyro.conf.Suppress[tuple[str, ...]] = ()
    """What of a configuration of MMDetection has no part in the run, in lines for a person."""
    parent: tyro.conf.Suppress[Config | None] = None
    """What the settings were made from; see `Read`."""
    settings: Annotated[Config, tyro.conf.arg(name="")]


def parse(arguments: list[str]) -> tuple[Options, Path]:
    """The options and the run directory of a command line; `resume` says whether there is something to go on with.

    Raises:
        UserError: no configuration is named, or it is not valid.
        SystemExit: an option is unknown or of the wrong type (code 2), or help was asked for (code 0).
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    early.add_argument("--workdir", type=Path)
    early.add_argument("--resume", action="store_true")
    known, _ = early.parse_known_args(arguments)
    helping = not {"-h", "--help", "--help-all"}.isdisjoint(arguments)
    if known.config is None and not (known.resume and known.workdir) and not helping:
        raise UserError("Name a configuration with --config FILE (see configs/), or a run with --workdir DIR --resume.")
    run = RunDirectory.at(known.workdir or Path("runs") / run_name(known.config or ""))
    resuming = known.resume and not helping and run.exists()
    found = read(known.config) if known.config is not None else Read(Config() if helping else run.config())
    if helping:
        from jaxft.help import show

        show(Options(settings=found.config), arguments, program("train"))
    options = tyro.cli(
        Options,
        args=arguments,
        default=Options(settings=found.config, passed_over=found.passed_over, parent=found.parent),
        config=(tyro.conf.AvoidSubcommands,),
        prog=program("train"),
    )
    return dataclasses.replace(options, resume=resuming), run.path


def with_config(kind: type[T], arguments: list[str], command: str) -> T:
    """The options of a command that takes `--config FILE` and any field of it: `kind` has a field `config`, for its
    name, and `settings`, for what it says.

    Raises:
        UserError: no configuration is named, or it is not valid.
        SystemExit: an option is unknown or of the wrong type (code 2), or help was asked for (code 0).
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    known, _ = early.parse_known_args(arguments)
    if known.config is None and {"-h", "--help"}.isdisjoint(arguments):
        raise UserError("Name a configuration with --config FILE (see configs/).")
    settings = Config() if known.config is None else read(known.config).config
    fields: dict[str, Any] = {"config": known.config or "", "settings": settings}
    return tyro.cli(
        kind,
        args=arguments,
        default=kind(**fields),
        config=(tyro.conf.AvoidSubcommands,),
        prog=program(command),
    )


class Read(NamedTuple):
    """A configuration that is named on the command line.

    Attributes:
        passed_over: what of one of MMDetection has no part in the run, in lines for a person.
        parent: what it was made from; see `jaxft.config.Loaded`. None where nobody says it.
    """

    config: Config
    passed_over: tuple[str, ...] = ()
    parent: Config | None = None


def read(name: str) -> Read:
    """The configuration of a name, of this project or of MMDetection.

    Raises:
        UserError: there is none, or it is not valid.
    """
    from converters.mmdet.file import is_mmdet

    if "::" not in name and not is_mmdet(find(name)):
        config, parent = load_with_parent(name)
        return Read(config, parent=parent)
    from converters.mmdet.training import load_any  # which builds the abstract model, with JAX

    reading = load_any(Path(name))
    return Read(reading.config, reading.told(), reading.config)
