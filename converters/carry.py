"""Carrying rows of a head over by class name, where a checkpoint knows some of the classes that a model should know."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.files import read_classes
from converters.ledger import Ledger, MismatchError, in_a_row
from converters.naming import read_source
from converters.rules import Leaf, leaves
from converters.sources import locate
from jaxft.errors import UserError
from jaxft.models.edited import edited
from jaxft.models.paths import matches, modules

# Layers with an output for each pair of anchor and class, the class counting faster.
ANCHOR_MAJOR = ("retina_cls", "atss_cls", "gfl_cls", "conv_cls", "cls_logits")
# Layers with four outputs for each class.
BOXES = ("fc_reg", "bbox_pred")


def carry_classes(
    model: nnx.Module,
    source: str | Path | Mapping[str, np.ndarray],
    ours: Sequence[str],
    *,
    layers: Sequence[str],
    theirs: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    sha256: str | None = None,
    prefix: str = "",
    original: bool | None = False,
) -> tuple[str, ...]:
    """Overwrites, in place, the rows of a filled model's head with a checkpoint's rows of the classes of the same name.

    Args:
        model: filled, its head with values of its own for the classes that the checkpoint does not know.
        source, rename, sha256, prefix, original: as of `load_pretrained`.
        ours: the names of the model's classes, in order.
        layers: paths of the class-dependent layers, such as `jaxft.models.class_layers` gives.
        theirs: the names of the checkpoint's classes, in order; those in the file where it is empty.

    Returns:
        The classes carried over, in our order. The background's rows go with them.

    Raises:
        UserError: the checkpoint has no names, or none that is ours.
        MismatchError: a layer's rows are not those of so many classes.
    """
    theirs = tuple(theirs) or _names_in(source, sha256)
    common = [name for name in ours if name in theirs]
    if not common:
        near = difflib.get_close_matches(ours[0], theirs, n=3, cutoff=0.5) if ours else []
        hint = f"; the nearest to {ours[0]} are {', '.join(near)}" if near else ""
        raise UserError(
            f"{_label(source)} knows none of the classes {', '.join(ours[:5])}{', ...' * (len(ours) > 5)}; it knows "
            f"{', '.join(theirs[:5])}{', ...' * (len(theirs) > 5)}{hint}."
        )
    pairs = [(theirs.index(name), list(ours).index(name)) for name in common]
    targets = list(leaves(model))
    by_key = {leaf.key: leaf for leaf in targets}
    read = read_source(by_key, source, rename, sha256, prefix, record=edited(model), original=original)
    state, problems = read.state, read.problems
    firsts, changed = _background_first(model), []
    for leaf in targets:
        if not any(matches(layer, leaf.path) for layer in layers):
            continue
        tensor, own = state.get(leaf.key), leaf.to_torch(np.asarray(leaf.variable[...]))
        if tensor is None or tensor.shape[1:] != own.shape[1:]:
            found = "missing there" if tensor is None else f"{tuple(tensor.shape)} there and {own.shape} here"
            problems.append(f"{leaf.key} is {found}")
            continue
        old, new = (_places(leaf, *size, firsts) for size in ((len(tensor), len(theirs)), (len(own), len(ours))))
        background = [old is not None and len(old) > len(theirs), new is not None and len(new) > len(ours)]
        if old is None or new is None or background[0] != background[1] or old.shape[1] != new.shape[1]:
            problems.append(f"{leaf.key} has {len(tensor)} rows there for {len(theirs)} classes, {len(own)} here")
            continue
        rest = [(len(theirs), len(ours))] if background[0] else []
        for one, other in [*pairs, *rest]:
            own[new[other]] = tensor[old[one]]
        changed.append((leaf, own))
    if problems:
        raise MismatchError(f"{_label(source)}: classes cannot be carried over: {in_a_row(problems)}.")
    for leaf, rows in changed:
        leaf.variable.set_value(jnp.asarray(leaf.from_torch(rows), leaf.variable.dtype))
    return tuple(common)


def check_names(
    ledger: Ledger, source: str, ours: Sequence[str], layers: Callable[[], Sequence[str]], sha256: str | None = None
) -> None:
    """Refuses a head that was taken over from a checkpoint whose classes are others than ours.

    Args:
        ledger: what `load_pretrained(model, source)` gave.
        ours: the names of the classes in the data.
        layers: gives the paths of the class-dependent layers; asked only where the names differ.

    Raises:
        UserError: the names differ, and the head was not skipped.
    """
    theirs = read_classes(_file(source, sha256))
    if not theirs or theirs == tuple(ours):
        return
    heads = layers()
    if any(matches(layer, row.path) for row in ledger.having("mapped") for layer in heads):
        index = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), len(ours))
        pair = [names[index] if index < len(names) else "none" for names in (theirs, tuple(ours))]
        raise UserError(
            f"{source} knows other classes than the data: class {index + 1} is {pair[0]} there and {pair[1]} here. "
            "Train a new head with --pretrained.skip @head, and take over what both know with "
            "--pretrained.transfer-head-rows."
        )


def _file(source: str, sha256: str | None) -> Path:
    return locate(source if Path(source).exists() else source.partition("#")[0], sha256)


def _names_in(source: str | Path | Mapping[str, np.ndarray], sha256: str | None) -> tuple[str, ...]:
    found = () if isinstance(source, Mapping) else read_classes(_file(str(source), sha256))
    if not found:
        raise UserError(
            f"{_label(source)} holds no names of classes (those are in `meta` of MMDetection's checkpoints), so that "
            "nothing can be carried over by name."
        )
    return found


def _label(source: str | Path | Mapping[str, np.ndarray]) -> str:
    return "The state dict" if isinstance(source, Mapping) else str(source)


def _background_first(model: nnx.Module) -> tuple[str, ...]:
    """The paths of heads whose background comes before all classes, as torchvision's does."""
    return tuple(path for path, module in modules(model) if getattr(module, "background_first", False))


def _places(leaf: Leaf, rows: int, classes: int, firsts: Sequence[str]) -> np.ndarray | None:
    """The rows of each class, `[classes, rows of one]`, with one entry more for the background where there is one.

    None where the numbers do not add up.
    """
    name = leaf.path.split(".")[-2]
    if name in ANCHOR_MAJOR:
        return None if rows % classes else np.arange(rows).reshape(-1, classes).T
    each = 4 if name in BOXES else 1
    if rows not in (classes * each, (classes + 1) * each):
        return None
    table = np.arange(rows).reshape(-1, each)
    first = any(leaf.path.startswith(f"{path}.") for path in firsts)
    return np.roll(table, -1, 0) if first and len(table) > classes else table
