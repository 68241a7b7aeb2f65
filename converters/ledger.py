"""Filling a model from a state dict with a total account of every source key and every target leaf."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.table import Table

from converters.naming import edits_hint, facts, read_source, replace_prefix
from converters.recognition import fitting_models, mmdetection_like, nearest_model
from converters.rules import COUNTER, TRACKED_MEAN, Leaf, leaves
from converters.sources import TORCHVISION
from jaxft.adapters.low_rank import additions, merged
from jaxft.errors import UserError
from jaxft.models import HEAD, MADE, head_of, made
from jaxft.models.edited import edited
from jaxft.models.paths import matches

LISTED = 10  # reasons in a message
IF_ANY = "~"  # before a pattern that may match nothing


class MismatchError(UserError):
    """A checkpoint and a model do not fit.

    Args:
        claim: what does not fit.
        problems: every reason; the message lists ten of them, and says how many there are more.
        more: where to see all of them.
    """

    def __init__(self, claim: str, problems: Sequence[str] = (), more: str = "") -> None:
        self.claim, self.problems = claim, tuple(problems)
        rest = len(problems) - LISTED
        shown = [*problems[:LISTED], *([f"... and {rest} more{more}"] if rest > 0 else [])]
        super().__init__(_listed(claim, shown))

    def complete(self) -> "MismatchError":
        """The same with every reason in its message."""
        whole = MismatchError(self.claim)
        whole.problems, whole.args = self.problems, (_listed(self.claim, self.problems),)
        return whole


def in_a_row(problems: Sequence[str]) -> str:
    """The first ten in a sentence, and how many there are more."""
    rest = len(problems) - LISTED
    return "; ".join([*problems[:LISTED], *([f"and {rest} more"] if rest > 0 else [])])


def _listed(claim: str, lines: Sequence[str]) -> str:
    return "\n".join([claim, *(f"  - {line}" for line in lines)])


@dataclass(frozen=True)
class Row:
    """One line of the account. `key` is the source's name, `path` ours; one of them is empty unless it was mapped."""

    status: Literal["mapped", "skipped", "deleted", "new"]
    key: str
    path: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Ledger:
    """What became of every source key and every target leaf."""

    source: str
    rows: tuple[Row, ...]

    def having(self, status: str) -> list[Row]:
        """The rows of one status."""
        return [row for row in self.rows if row.status == status]

    def summary(self) -> str:
        """One sentence: `62 of 62 source keys mapped, 0 skipped; 0 of our leaves are new`."""
        mapped, skipped, deleted = (len(self.having(status)) for status in ("mapped", "skipped", "deleted"))
        gone = f", {deleted} deleted by model.edits" if deleted else ""
        return (
            f"{self.source}: {mapped} of {mapped + skipped + deleted} source keys mapped, {skipped} skipped{gone}; "
            f"{len(self.having('new'))} of our leaves are new"
        )

    def table(self) -> Table:
        """The account as a table for a terminal."""
        table = Table("status", "source key", "our path", "shape (source)", "dtype", title=self.summary())
        for row in self.rows:
            table.add_row(row.status, row.key, row.path, "x".join(map(str, row.shape)) or "scalar", row.dtype)
        return table


def load_pretrained(
    model: nnx.Module,
    source: str | Path | Mapping[str, np.ndarray],
    *,
    skip: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    sha256: str | None = None,
    prefix: str = "",
    original: bool | None = False,
) -> Ledger:
    """Fills `model` in place from a PyTorch checkpoint, all of it or nothing.

    The count of batches of a BatchNorm that has none in the model, since it is frozen or Flax's, is skipped.

    Args:
        model: concrete or abstract (`jaxft.models.abstract_model`), where the leaves that are skipped stay abstract.
        source: a path, an http(s) URL, `package://MODULE/FILE`, `torchvision://NAME[/WEIGHTS]` (see
            `converters.sources`), or a state dict. Where it counts no batches for any BatchNorm, all counts are 0.
        skip: patterns (`fc`, `layer[34]`, `*.bn1`) over names; matching source keys are left out, and matching leaves
            of ours keep their initial values. The only way to leave anything out. A pattern must match something,
            unless it starts with `~`. `@head` stands for the class-dependent layers of a model that
            `jaxft.create_model` made.
        rename: prefixes of source keys to replace, `{"backbone.": ""}`; the longest that fits wins.
        sha256: the expected hash of the file, or its first digits.
        prefix: take what lies below it in the source alone, without it; what lies elsewhere is skipped.
        original: of a model that was edited (`jaxft.surgery`), whether the source is of the model before that: then the
            tensors of deleted layers are left out, new layers keep their initial values, and what has another name by
            now is found. None finds out, by the file's metadata, or else by what fits; what fits both ways is of
            before.

    Raises:
        MismatchError: anything is missing, left over, of another shape or kind, or not finite; nothing is changed then.
        UserError: the source cannot be reached or read.
    """
    skip = [name for pattern in skip for name in (head_of(model) if pattern == HEAD else (pattern,))]
    targets = {leaf.key: leaf for leaf in leaves(model)}
    record = edited(model)
    read = read_source(targets, source, rename, sha256, prefix, record=record, original=original)
    name, state, problems = read.name, read.state, read.problems
    names = [*state, *read.deleted, *targets, *(leaf.path for leaf in targets.values())]
    problems += idle_patterns(skip, names)
    if not any(".lora." in key for key in state):
        # What a network had added since it was published starts fresh.
        skip += [f"~{path}.lora" for path, _, _ in additions(model)]

    def skipped(key: str) -> bool:
        return skips(skip, key, targets[key].path if key in targets else key)

    # Files of before PyTorch 0.4.1, among them torchvision's own, have no such counters; PyTorch takes them as 0, too.
    counted = any(key.endswith(COUNTER) for key in state)
    rows = [Row("skipped", key, "", tuple(tensor.shape), str(tensor.dtype)) for key, tensor in read.outside.items()]
    rows += [Row("deleted", key, "", tuple(tensor.shape), str(tensor.dtype)) for key, tensor in read.deleted.items()]
    values = {}
    homeless, odd, empty = list[str](), list[str](), list[str]()
    for key, tensor in state.items():
        leaf = targets.get(key)
        shape, dtype = tuple(tensor.shape), str(tensor.dtype)
        if skipped(key) or _counts_for_none(key, targets):
            rows.append(Row("skipped", key, "", shape, dtype))
        elif leaf is not None and leaf.nameless:
            continue  # named below
        elif leaf is None or leaf.path in read.new:
            homeless.append(f"source key {key} has no place in the model{_nearest(key, targets)}")
        elif objection := _objection(leaf, tensor):
            odd.append(objection)
        else:
            values[key] = leaf.from_torch(tensor)
            rows.append(Row("mapped", key, leaf.path, shape, dtype))
    for key, leaf in targets.items():
        if skipped(key) or leaf.path in read.new:
            rows.append(Row("new", "", leaf.path, leaf.source_shape, str(leaf.variable.dtype)))
        elif leaf.nameless:
            problems.append(leaf.nameless)
        elif key.endswith(COUNTER) and not counted:
            values[key] = np.zeros((), np.int32)
            rows.append(Row("new", "", leaf.path, (), str(leaf.variable.dtype)))
        elif key not in state:
            empty.append(f"our {leaf.path} is not filled: no source key {key}{_nearest(key, state)}")
    # One of each kind in turn, so that the first ten show every kind.
    problems += [reason for kinds in zip_longest(odd, homeless, empty) for reason in kinds if reason is not None]
    if problems:
        more = "" if isinstance(source, Mapping) else f"; python -m jaxft.inspect {name} --model NAME lists all of them"
        claim = _complaint(name, model, state, len(problems), of_other_shapes=bool(odd))
        claim = f"{claim} {edits_hint(facts(source, sha256), record, read)}".rstrip()
        raise MismatchError(claim, problems, more)

    _remember(model, name)
    for key, value in values.items():
        variable = targets[key].variable
        variable.set_value(jnp.array(value, variable.dtype))
    return Ledger(name, tuple(rows))


def to_torch(
    model: nnx.Module, *, rename: Mapping[str, str] | None = None, without: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """The model's parameters and statistics under PyTorch's names, axis orders and integer type (int64).

    `rename` is the one given to `load_pretrained`, applied backwards by the longest prefix of ours that fits. A prefix
    that was taken off goes back onto every name, so name those that never had it: `{"backbone.": "", "fc.": "fc."}`.
    `without` are our paths of leaves to leave out. Low-rank additions are merged into their kernels.

    Raises:
        MismatchError: leaves have no certain name and axes in PyTorch; all are named.
        UserError: two leaves would get one name, or the model is abstract.
    """
    state: dict[str, np.ndarray] = {}
    backwards = {ours: theirs for theirs, ours in (rename or {}).items()}
    targets = [leaf for leaf in leaves(model) if leaf.path not in without]
    if empty := [leaf.path for leaf in targets if isinstance(leaf.variable.get_value(), jax.ShapeDtypeStruct)]:
        count, kind = len(empty), type(model).__name__
        raise UserError(
            f"{count} leaves of this {kind} are shapes without values, {empty[0]} the first; load or draw them first."
        )
    targets = [leaf for leaf in leaves(merged(model)) if leaf.path not in without]
    if nameless := [leaf.nameless for leaf in targets if leaf.nameless]:
        raise MismatchError(f"This {type(model).__name__} cannot be written for PyTorch: {in_a_row(nameless)}.")
    for leaf in targets:
        key = replace_prefix(leaf.key, backwards)
        if key in state:
            raise UserError(f"{leaf.path} would be called {key} in PyTorch, as another leaf is; rename it otherwise.")
        array = leaf.to_torch(np.asarray(leaf.variable[...]))
        state[key] = array.astype(np.int64) if array.dtype == np.int32 else array
    return state


def skips(skip: Sequence[str], *names: str) -> bool:
    """Whether one of the patterns matches one of the names."""
    return any(matches(pattern.removeprefix(IF_ANY), name) for pattern in skip for name in names)


def idle_patterns(skip: Sequence[str], names: Iterable[str]) -> list[str]:
    """A sentence for each pattern that matches none of the names, and must."""
    names = list(names)
    subtrees = {name[:end] for name in names for end, character in enumerate(name) if character == "."}
    return [
        f"skip pattern {pattern!r} matches nothing{_nearest(pattern, subtrees)}"
        for pattern in skip
        if not pattern.startswith(IF_ANY) and not skips([pattern], *names)
    ]


def _objection(leaf: Leaf, tensor: np.ndarray) -> str | None:
    """Why `tensor` must not go into `leaf`; None where it may."""
    dtype = np.dtype(leaf.variable.dtype)
    counts = np.issubdtype(dtype, np.integer)
    if tuple(tensor.shape) != leaf.source_shape:
        turned = " in this order of axes" if sorted(tensor.shape) == sorted(leaf.source_shape) else ""
        return f"{leaf.key} has shape {tuple(tensor.shape)}, the model wants {leaf.source_shape}{turned}"
    if counts != np.issubdtype(tensor.dtype, np.integer):
        return f"{leaf.key} is {tensor.dtype}, the model wants {dtype}"
    if counts:
        fits = tensor.min(initial=0) >= 0 and tensor.max(initial=0) <= np.iinfo(dtype).max
        return None if fits else f"{leaf.key} is negative or too large for {dtype}"
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        return f"{leaf.key} is {tensor.dtype}, the model wants {dtype}"
    with np.errstate(over="ignore"):
        finite = np.isfinite(tensor.astype(dtype, copy=False)).all()
    return None if finite else f"{leaf.key} holds values that are NaN, infinite or too large for {dtype}"


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return f" (nearest: {near[0]})" if near else ""


def _counts_for_none(key: str, targets: Collection[str]) -> bool:
    """Whether a source key counts the batches of a BatchNorm of ours that counts none."""
    path = f".{key}"
    mean = (path.removesuffix(COUNTER) + TRACKED_MEAN).removeprefix(".")
    return path.endswith(COUNTER) and key not in targets and mean in targets


def _remember(model: nnx.Module, source: str) -> None:
    """Notes in a model that was made by name which of its published weights it has; see `preprocessing`."""
    if (how := made(model)) is not None:
        published = source.removeprefix(TORCHVISION) if source.startswith(TORCHVISION) else ""
        setattr(model, MADE, replace(how, weights=published))


def _complaint(
    source: str, model: nnx.Module, state: Mapping[str, np.ndarray], count: int, *, of_other_shapes: bool
) -> str:
    hint, how = "Skip what is meant to differ by name.", made(model)
    if how is not None and (like := mmdetection_like(state)):
        hint = f"Its keys are those of MMDetection's {like}, whose configuration describes the model, not {how.name}."
    elif nearest := nearest_model(state):
        fits = fitting_models(state)
        if how is not None and how.name in fits:
            if of_other_shapes:
                hint = f"It is {how.name} with another number of classes: make the model for as many, or skip {HEAD}."
        elif fits:
            hint = f"Its keys and shapes are those of {' or '.join(fits)}."
        else:
            hint += f" Of all models, {nearest[0]} has most of its keys and shapes ({nearest[1]:.0%})."
    reasons = f"{count} reason" + "s" * (count > 1)
    return f"{source} does not fit this {type(model).__name__} ({reasons}); nothing was loaded. {hint}"
