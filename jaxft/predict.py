"""What a model says of photos: `python -m jaxft.predict --run DIR FILES... --output DIR`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxft.memory import keep_memory

if __name__ == "__main__":
    keep_memory()  # before what would be imported twice

import tyro

from jaxft.activity import doing
from jaxft.cli import program, run_command, start
from jaxft.errors import UserError
from jaxft.hardware import Hardware
from jaxft.inference import NOTHING_ASKED, Asked, through_views
from jaxft.reporting.console import make_console
from jaxft.run import RunDirectory

if TYPE_CHECKING:
    from jaxft.data.dataset import Dataset
    from jaxft.tasks.task import Prediction, Task


def find_photos(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the photos in them and in the folders below, sorted.

    Raises:
        UserError: a path does not exist, or a folder holds no photo.
    """
    from jaxft.data.folder import SUFFIXES

    found: list[Path] = []
    for path in paths:
        inside = (
            sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        )
        if not inside or not path.exists():
            raise UserError(
                f"{path} {'holds no photos' if path.exists() else 'does not exist'}; name photos or folders."
            )
        found += inside
    return found


def check_folder(path: Path, option: str = "--output") -> None:
    """Raises a UserError where a path cannot be a folder for what a command writes."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is no folder; choose another {option}.")


def write(task: "Task", dataset: "Dataset", predictions: "Iterable[tuple[int, Prediction]]", folder: Path) -> None:
    """Writes predictions into a folder, which is made where it is missing, as they come.

    Raises:
        UserError: it cannot be written.
    """
    failed: list[OSError] = []

    def made() -> "Iterator[tuple[int, Prediction]]":
        try:
            yield from predictions
        except OSError as error:
            failed.append(error)  # which says nothing of the folder
            raise

    try:
        folder.mkdir(parents=True, exist_ok=True)
        task.write(dataset, made(), folder)
    except OSError as error:
        if failed:
            raise
        raise UserError(f"{folder} cannot be written ({error}); choose another --output.") from error


@dataclass(frozen=True, kw_only=True)
class Options:
    """Predicts what a run's task says of photos: classes, or the objects in them."""

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Photos, or folders of photos."""
    run: Path
    """The run directory."""
    output: Path | None = None
    """A folder for predictions.json, predictions.csv and pictures. Of detectors predictions.json is COCO's results,
    whose image and category ids images.json explains, and predictions.csv has a row an object; jaxft evaluate --output
    writes those of a split with the ids of its annotation file."""
    crops: float | None = None
    """Detectors: cut the objects with at least this score out of their photos, into crops below --output, a folder a
    class."""
    checkpoint: Literal["best", "last"] | int | None = None
    """Which model of the run; by default the best where an evaluation has chosen one, and else the last. A number is
    the step of one that `keep_checkpoints` has kept."""
    asked: Annotated[Asked, tyro.conf.arg(name="")] = NOTHING_ASKED
    hang_after: float = Hardware().hang_after
    """As of `hardware.hang_after`, from the first photo on."""
    distributed: bool = False
    """This is one of several processes that share the work; see `jaxft train --help`."""


def check_crops(options: Options) -> None:
    """Raises a UserError where objects cannot be cut out as the options say."""
    if options.crops is None:
        return
    if options.output is None:
        raise UserError("--crops writes into the folder that --output names; add it.")
    if not 0 <= options.crops <= 1:
        raise UserError(f"--crops is {options.crops:g}; it is the least score of an object, from 0 to 1.")


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog=program("predict"))
    if not options.photos:
        raise UserError("Name at least one photo or folder of photos.")
    files = find_photos(options.photos)
    if options.output is not None:
        check_folder(options.output)
    check_crops(options)
    directory = RunDirectory.at(options.run)
    directory.check()
    options.asked.viewing()
    if options.hang_after <= 0:
        raise UserError(f"--hang-after is {options.hang_after:g}; it is more than 0 seconds.")
    start(distributed=options.distributed)
    import jax

    from jaxft.processes import check_alike, fingerprint
    from jaxft.reporting.screen import Screen
    from jaxft.training.evaluation import run_predictor
    from jaxft.training.finished import open_run
    from jaxft.training.watchdog import watched

    first = jax.process_index() == 0
    with Screen(make_console(quiet=not first)) as screen, doing("opening the run"):
        run = open_run(options.run, options.checkpoint)
        task = run.config.task.task(run.config.dtype)
        check_alike({"photos": fingerprint(list(map(str, files)))})
        dataset = task.photos(files, run.classes)
        if options.crops is not None and options.output is not None:
            task.crop(dataset, {}, options.output, options.crops)  # a task that finds no objects says so now
        viewing = options.asked.of_run(directory, run.model)
        predictor, arrays = run_predictor(run, task)
        predicting = through_views(predictor, task, dataset, viewing)
        predictions: dict[int, Any] = {}
        watching = watched(options.hang_after, directory.path, jax.process_index())
        with closing(predictor), watching, doing("predicting") as counted:
            for index, prediction in predicting(arrays, dataset):
                predictions[index] = prediction
                counted(len(predictions), len(files))
        predictions = dict(sorted(predictions.items()))
        screen.console.print(task.table(dataset, predictions))
        if options.output is not None and first:
            with doing(f"writing {options.output}"):
                write(task, dataset, predictions.items(), options.output)
                if options.crops is not None:
                    try:
                        cut = task.crop(dataset, predictions, options.output / "crops", options.crops)
                    except OSError as error:
                        raise UserError(
                            f"{options.output / 'crops'} cannot be written ({error}); choose another --output."
                        ) from error
                    screen.say(
                        f"{options.output / 'crops'} has {cut:,} objects with a score of at least {options.crops:g}."
                    )


if __name__ == "__main__":
    run_command(main)
