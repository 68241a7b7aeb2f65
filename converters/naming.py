"""A source's tensors under the names that a model has for them: renamed, modernized, moved where it was edited."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydantic

from converters.files import read_metadata
from converters.mmdet.spelling import modern_keys
from converters.rules import COUNTER, TRACKED_MEAN, Leaf
from converters.sources import load, locate
from converters.torchvision import modern_key
from jaxft.edits import READER, described, plain
from jaxft.errors import UserError
from jaxft.models.edited import Edited

State = dict[str, np.ndarray]
OLD_DETECTOR = "ori_model."
"""How the keys begin of the detector that one of ERD's has grown out of, in whose checkpoints it lies, too."""


class Read(NamedTuple):
    """A source for a model.

    Attributes:
        name: what it is called.
        state: its tensors under PyTorch's names of the model's leaves.
        problems: what is odd about the names.
        outside: tensors that do not lie below the prefix, and those of an old detector.
        deleted: tensors of layers that an edit of the model took away.
        new: our paths of the leaves that it does not fill because an edit of the model brought them.
        original: whether it was read as of the model before its edits.
    """

    name: str
    state: State
    problems: list[str]
    outside: State
    deleted: State
    new: frozenset[str]
    original: bool = False


def read_source(
    targets: Mapping[str, Leaf],
    source: str | Path | Mapping[str, np.ndarray],
    rename: Mapping[str, str] | None = None,
    sha256: str | None = None,
    prefix: str = "",
    *,
    record: Edited | None = None,
    original: bool | None = False,
) -> Read:
    """A source under the names of today for a model with the leaves `targets`, by their keys.

    Args:
        source, rename, sha256, prefix: as of `converters.ledger.load_pretrained`.
        record: what was edited in the model.
        original: whether the source is of the model before that; None finds out.

    Raises:
        UserError: the source cannot be read, or nothing lies below the prefix.
    """
    if isinstance(source, Mapping):
        name, state = "state dict", {key: np.asarray(tensor) for key, tensor in source.items()}
    else:
        name, state = str(source), load(str(source), sha256)
    inside = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    if not inside and state:
        parts = ", ".join(sorted({f"{key.partition('.')[0]}." for key in state}))
        raise UserError(f"Nothing in {name} lies below {prefix!r}; its names begin with {parts}.")
    outside = {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}
    if not any(key.startswith(OLD_DETECTOR) for key in targets):
        outside |= {key: inside.pop(key) for key in list(inside) if key.startswith(OLD_DETECTOR)}
    before = {} if record is None else _keys_before(targets, record)
    known = {*targets, *before.values(), *(() if record is None else record.deleted)}
    found, problems = _renamed(inside, rename or {}, known)
    if record is None or original is False:
        return Read(name, found, problems, outside, {}, frozenset())
    if original is None and _fits_now(targets, before, record, found, facts(source, sha256)):
        return Read(name, found, problems, outside, {}, frozenset())
    now = _with_counters({was: key for key, was in before.items()})
    gone = _with_counters({key: "" for key in record.deleted})
    deleted = {key: tensor for key, tensor in found.items() if key in gone}
    kept = {now.get(key, key): tensor for key, tensor in found.items() if key not in deleted}
    return Read(name, kept, problems, outside, deleted, frozenset(record.new), original=True)


def facts(source: str | Path | Mapping[str, np.ndarray], sha256: str | None) -> Mapping[str, Any]:
    """What a file says of the model whose weights it holds."""
    if isinstance(source, Mapping):
        return {}
    text = str(source)
    model = read_metadata(locate(text if Path(text).exists() else text.partition("#")[0], sha256)).get("model")
    return model if isinstance(model, Mapping) else {}


def edits_of(model: Mapping[str, Any]) -> str:
    """What the facts of a model say that was edited in it, in words; empty where nothing was."""
    try:
        groups = [READER.validate_python(group) for group in model.get("edits") or ()]
    except (pydantic.ValidationError, TypeError):
        return "not those of this version"
    return "; ".join(described(edit) for group in groups for edit in group)


def edits_hint(facts: Mapping[str, Any], record: Edited | None, read: Read) -> str:
    """What to do where a source does not fit because of what was edited, there or here; empty where that is not why."""
    if record is None:
        there = edits_of(facts)
        return f"It is of a model with edits ({there}): give this one the same." if there else ""
    if not read.original and read.state.keys() & set(record.deleted):
        return (
            "It holds what the edits of the model deleted: take it as of the model before them, with original=True "
            "(pretrained.edited=False)."
        )
    return ""


def _keys_before(targets: Mapping[str, Leaf], record: Edited) -> dict[str, str]:
    """The key of each leaf that was there before the model was edited, by the key that it has now."""
    moved = dict(record.moved)
    return {key: moved.get(key, key) for key, leaf in targets.items() if leaf.path not in record.new}


def _with_counters(names: Mapping[str, str]) -> dict[str, str]:
    """Names by names, with those of the counters beside running means: a frozen BatchNorm of ours has none, but a
    source may."""
    ends = len(TRACKED_MEAN)
    means = {was: key for was, key in names.items() if was.endswith(TRACKED_MEAN)}
    return {was[:-ends] + COUNTER: key[:-ends] + COUNTER for was, key in means.items()} | dict(names)


def _fits_now(
    targets: Mapping[str, Leaf], before: Mapping[str, str], record: Edited, state: State, facts: Mapping[str, Any]
) -> bool:
    """Whether a source is of the model as it is now, and not as it was before it was edited: its metadata name the same
    edits, or its tensors fit only so. What fits both ways is of before."""
    if facts and not facts.get("edits"):
        return False

    def has(key: str, leaf: Leaf) -> bool:
        return key in state and tuple(state[key].shape) == leaf.source_shape

    now = all(has(key, leaf) for key, leaf in targets.items())
    if facts:  # of a model that was edited, perhaps by other edits that do the same
        return now or facts["edits"] == [plain(group) for group in record.groups]
    then = all(has(was, targets[key]) for key, was in before.items()) and state.keys() >= set(record.deleted)
    return now and not then


def replace_prefix(key: str, rename: Mapping[str, str]) -> str:
    """A key with the longest prefix that fits replaced."""
    for prefix in sorted(rename, key=len, reverse=True):
        if key.startswith(prefix):
            return rename[prefix] + key.removeprefix(prefix)
    return key


def _renamed(state: State, rename: Mapping[str, str], known: Collection[str]) -> tuple[State, list[str]]:
    problems, renamed = list[str](), State()
    names = {key: modern_key(replace_prefix(key, rename), known) for key in state}
    modern = modern_keys(names.values(), known)
    for key, tensor in state.items():
        name = modern.get(names[key], names[key])
        if name in renamed:
            problems.append(f"two source keys become {name} (the second is {key}); rename one of them otherwise")
        renamed[name] = tensor
    return renamed, problems
