"""What the loss that a parity test has compiled does with other targets than those that it was compared on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.report import difference
from converters.verify import precision
from jaxft.models.paths import values
from tests.models.detectors import parity


@contextmanager
def compiled(both: parity.Pair, batch: parity.Batch) -> Iterator[Any]:
    """A function of targets, and a factor of the images -> the gradients, and the terms of our loss."""
    gradient = both.gradient
    assert gradient is not None
    params = values(both.ours, nnx.Param)
    rest = {path: array for path, array in values(both.ours).items() if path not in params}
    with precision(both.dtype), parity.same_samples(both.dtype):
        images, sizes = jnp.asarray(batch.images, both.dtype), jnp.asarray(batch.sizes, jnp.int32)
        yield lambda targets, factor=1: gradient(params, rest, images * factor, sizes, targets)


def changed_by_crowds(both: parity.Pair, batch: parity.Batch, *, with_masks: bool = False) -> dict[str, set[str]]:
    """The terms of our loss that would be others were crowds taken for background, and for objects.

    Where they would, equality with MMDetection says that crowds are treated as there.
    """
    targets = batch.targets(with_masks)
    nobody = jnp.zeros_like(targets.ignored)
    with compiled(both, batch) as run:
        _, right = run(targets)
        _, background = run(targets._replace(ignored=nobody))
        _, objects = run(targets._replace(ignored=nobody, valid=targets.valid | targets.ignored))
    found = {
        kind: {name for name in right if "loss" in name and difference(terms[name], np.asarray(right[name])) > 1e-5}
        for kind, terms in (("background", background), ("objects", objects))
    }
    print(found)
    return found


def not_finite(both: parity.Pair, batch: parity.Batch, *, with_masks: bool = False) -> dict[str, list[str]]:
    """The terms and gradients that are not finite where there is little or nothing to learn from, or far too much."""
    targets = batch.targets(with_masks)
    nobody = jnp.zeros_like(targets.valid)
    points = jnp.concatenate([targets.boxes[..., :2]] * 2, -1)
    cases = {
        "no object": (targets._replace(valid=nobody, ignored=nobody), 1),
        "crowds alone": (targets._replace(valid=nobody, ignored=targets.valid | targets.ignored), 1),
        "objects without area": (targets._replace(boxes=points), 1),
        "padding at 0": (targets._replace(boxes=jnp.where(targets.valid[..., None], targets.boxes, 0)), 1),
        "photos out of range": (targets, 1e4),
    }
    with compiled(both, batch) as run:
        found = {kind: run(*case) for kind, case in cases.items()}
    return {
        kind: [name for tree in trees for name, array in tree.items() if not np.isfinite(np.asarray(array)).all()]
        for kind, trees in found.items()
    }
