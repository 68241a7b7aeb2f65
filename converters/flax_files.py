"""A model's parameters and statistics under our own dotted paths, as `convert --to flax` writes them."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from converters.ledger import Ledger, MismatchError, Row, idle_patterns, skips
from converters.rules import leaves
from converters.sources import load


def load_flax(model: nnx.Module, source: str, *, skip: Sequence[str] = ()) -> Ledger:
    """Fills an abstract model in place from such a file, all of it or nothing.

    Args:
        source, skip: as of `converters.load_pretrained`; patterns are over our paths and PyTorch's names.

    Raises:
        MismatchError: anything is missing, left over or of another shape, or a pattern matches nothing.
        UserError: the source cannot be reached or read.
    """
    arrays, targets = load(source), {leaf.path: leaf for leaf in leaves(model)}
    keys = {path: leaf.key for path, leaf in targets.items()}
    problems = idle_patterns(skip, [*arrays, *targets, *keys.values()])
    rows = []
    for path in sorted(arrays.keys() | targets.keys()):
        there = tuple(arrays[path].shape) if path in arrays else None
        here = tuple(targets[path].variable.shape) if path in targets else None
        if not skips(skip, path, keys.get(path, path)):
            if there != here:
                problems.append(f"{path} is {there or 'missing'} there and {here or 'missing'} here")
            elif there is not None:
                rows.append(Row("mapped", path, path, there, str(arrays[path].dtype)))
            continue
        if there is not None:
            rows.append(Row("skipped", path, "", there, str(arrays[path].dtype)))
        if here is not None:
            rows.append(Row("new", "", path, here, str(targets[path].variable.dtype)))
    if problems:
        reasons = f"{len(problems)} reason" + "s" * (len(problems) > 1)
        raise MismatchError(f"{source} does not hold the Flax parameters of this {type(model).__name__} ({reasons}).",
                            problems)  # fmt: skip
    for row in rows:
        if row.status == "mapped":  # one by one, so that a large model is in memory once
            targets[row.path].variable.set_value(jnp.array(arrays.pop(row.path)))
    return Ledger(source, tuple(rows))
