"""What may differ when a run goes on, and what must not."""

from collections.abc import Mapping, Sequence

from jaxft.config import Config
from jaxft.errors import UserError
from jaxft.fields import differences
from jaxft.run import Names, RunDirectory

# What has no part in the result, besides more epochs of a phase that has not ended, and a lower learning rate.
MAY_CHANGE = ("data.root", "data.url", "data.sha1", "data.workers", "log_every", "checkpoint_every", "fsdp")
NAMED = 5  # examples of a list in a message


def check_config(run: RunDirectory, config: Config, phase: int, own: Mapping[str, str]) -> None:
    """Compares the configuration of a run with the one that it is to go on with.

    Args:
        phase: the one that the run is in, from 0.
        own: what is the user's and not the configuration's, by its name.

    Raises:
        UserError: fields differ that may not change; all are named.
    """
    odd = [
        f"{path}: {there!r} there, {here!r} here"
        for path, (there, here) in differences(run.config(), config).items()
        if not _may_change(path, there, here, phase)
    ]
    if odd:
        raise UserError(
            f"{run.path} was started with other settings ({', '.join(odd)}). Resume it with its own, for example "
            "without --config, or start another run with --workdir. What may change is "
            f"{', '.join(MAY_CHANGE)}, phases.N.epochs of a phase that has not ended (more of them), and "
            "optimizer.learning_rate (a lower one)."
        )
    before = run.own()
    if changed := [name for name in {**before, **own} if before.get(name) != own.get(name)]:
        pairs = [f"{name}: {before.get(name, 'none')} there, {own.get(name, 'none')} here" for name in changed]
        raise UserError(
            f"{run.path} was started with something else of your own ({'; '.join(pairs)}); jaxft.fit wants the same "
            "model, datasets and loss when a run goes on."
        )


def _may_change(path: str, there: object, here: object, phase: int) -> bool:
    if path in MAY_CHANGE:
        return True
    larger = isinstance(there, int | float) and isinstance(here, int | float) and here > there
    smaller = isinstance(there, int | float) and isinstance(here, int | float) and here < there
    if path.startswith("phases.") and path.endswith(".epochs"):
        return larger and int(path.split(".")[1]) >= phase
    return path == "optimizer.learning_rate" and smaller


def check_examples(run: RunDirectory, classes: tuple[str, ...], examples: Names) -> None:
    """Compares the examples that a run was started with with those of today.

    Raises:
        UserError: classes or examples are new, gone or changed; the message says which.
    """
    if run.classes() != classes:
        raise UserError(f"The data have the classes {classes}, but {run.path} was started with {run.classes()}.")
    before = run.examples()
    changes = [change for split in examples for change in _changes(split, before.get(split, ()), examples[split])]
    if changes:
        raise UserError(
            f"The data have changed since {run.path} was started, so that it cannot go on with the same examples: "
            f"{'; '.join(changes)}. Restore them, or start another run with --workdir."
        )


def _changes(split: str, before: Sequence[str], now: Sequence[str]) -> list[str]:
    if list(before) == list(now):
        return []
    old, new = (dict(line.partition("\t")[::2] for line in lines) for lines in (before, now))
    kinds = {
        "new": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
        "with another ground truth": [name for name in new if name in old and new[name] != old[name]],
    }
    found = [f"{len(names)} of {split} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    return found or [f"those of {split} are in another order"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
