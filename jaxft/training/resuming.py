"""What may differ when a run goes on, and what must not."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from jaxft.config import Config, EarlyStopping
from jaxft.data.dataset import name_and_truth
from jaxft.errors import UserError
from jaxft.failures import when_ended
from jaxft.fields import differences, field_names
from jaxft.hardware import Hardware
from jaxft.run import Names, RunDirectory
from jaxft.training.own import TEACHER
from jaxft.training.saved import Saved

# What has no part in the result, besides more epochs of a phase that has not ended, and a lower learning rate.
MAY_CHANGE = (
    *(
        "data.root",
        "data.url",
        "data.sha1",
        "data.check",
        "data.workers",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "pictures",
        "report",
        "histograms",
        "tracker",
    ),
    *("evaluate_every", "evaluate_unit", "evaluate_from", "best_metric"),
    *(f"hardware.{name}" for name in field_names(Hardware)),
    *(f"early_stopping.{name}" for name in field_names(EarlyStopping)),
)
NAMED = 5  # examples of a list in a message


def check_config(run: RunDirectory, config: Config, saved: Saved | None) -> None:
    """Compares the configuration of a run with the one that it is to go on with.

    Args:
        saved: where it goes on; None from the start.

    Raises:
        UserError: fields differ that may not change; all are named.
    """
    odd = [
        f"{path}: {there!r} there, {here!r} here"
        for path, (there, here) in differences(run.config(), config).items()
        if not _may_change(path, there, here, saved or Saved(0, 0, True))
    ]
    if odd:
        raise UserError(
            f"{run.path} was started with other settings ({', '.join(odd)}). Resume it with its own, for example "
            "without --config, or start another run with --workdir. What may change is "
            f"{', '.join(MAY_CHANGE)}, phases.N.epochs or phases.N.steps of a phase that has not ended (more of them), "
            "and, after a loss that was not finite, optimizer.learning_rate (a lower one)."
        )


def check_own(run: RunDirectory, own: Mapping[str, str]) -> None:
    """Compares what a run was started with in the place of what its configuration says with what it is to go on with.

    Args:
        own: what each is called; see `jaxft.training.setup.Setup.names`. Before the teacher is there, nothing is said
            of it.

    Raises:
        UserError: something is missing, new or called otherwise.
    """
    before = {name: called for name, called in run.own().items() if name != TEACHER or TEACHER in own}
    if own.get(TEACHER) != before.get(TEACHER):
        raise UserError(
            f"The teacher has other weights than when {run.path} was started, so that the run would be another one; "
            "bring them back, or start another run with --workdir."
        )
    if changed := [name for name in {**before, **own} if before.get(name) != own.get(name)]:
        pairs = [f"{name}: {before.get(name, 'none')} there, {own.get(name, 'none')} here" for name in changed]
        raise UserError(
            f"{run.path} was started with something else of your own ({'; '.join(pairs)}); jaxft.fit wants the same "
            "model, datasets and loss when a run goes on."
        )


def _may_change(path: str, there: Any, here: Any, saved: Saved) -> bool:
    if re.fullmatch(r"phases\.\d+\.(epochs|steps)", path) and None not in (there, here):
        return bool(here > there) and int(path.split(".")[1]) >= saved.phase
    if path == "optimizer.learning_rate":
        return bool(here < there) and not saved.all_finite
    return path in MAY_CHANGE


def check_examples(run: RunDirectory, classes: tuple[str, ...], examples: Names) -> None:
    """Compares the examples that a run was started with with those of today.

    Raises:
        UserError: classes or examples are new, gone or changed; the message says which.
    """
    if run.classes() != classes:
        raise UserError(f"The data have the classes {classes}, but {run.path} was started with {run.classes()}.")
    if changes := _changes(run.examples(), examples):
        raise UserError(
            f"The data have changed since {run.path} was started, so that it cannot go on with the same examples: "
            f"{'; '.join(changes)}. Restore them, or start another run with --workdir."
        )


def _changes(before: Names, now: Names) -> list[str]:
    """What became of the examples of each split, in words."""
    old, new = ({split: _truths(lines) for split, lines in names.items()} for names in (before, now))
    found = []
    for split in now:
        there, here = old.get(split, {}), new[split]
        come, gone = ([name for name in one if name not in other] for one, other in ((here, there), (there, here)))
        ways = {"new": [name for name in come if not _moved(name, new, old)]}
        for other in now:  # as one photo more or less does to many where a part of them is held out
            ways[f"now in {other}"] = [name for name in gone if name in new[other] and name not in old.get(other, {})]
        ways["gone"] = [name for name in gone if not _moved(name, old, new)]
        ways["with another ground truth"] = [name for name in here if name in there and there[name] != here[name]]
        kinds = [f"{len(names)} of {split} {way} ({_some(names)})" for way, names in ways.items() if names]
        if not (kinds or come or list(before.get(split, ())) == list(now[split])):
            kinds = [f"those of {split} are in another order"]
        found += kinds
    return found


def _truths(lines: Sequence[str]) -> dict[str, str]:
    """The ground truth of each example by its name."""
    return dict(map(name_and_truth, lines))


def _moved(name: str, one: Mapping[str, Mapping[str, str]], other: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether an example is in another split on the other side, and not on this one."""
    return any(name in names and name not in one.get(split, {}) for split, names in other.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


@contextmanager
def removed_if_unfinished(run: RunDirectory) -> Iterator[None]:
    """Removes the directory of a new run that ends within by an error, also another process's, or Ctrl-C, before there
    is a checkpoint; unless it holds the stacks of a process that hangs."""

    def remove() -> None:
        for _ in range(3):  # another thread may be writing into what is being removed
            with suppress(OSError):
                if run.exists() and not run.has_checkpoint() and not any(run.path.glob("hang-*.txt")):
                    run.remove()

    try:
        with when_ended(remove):
            yield
    except (Exception, KeyboardInterrupt):
        remove()
        raise
