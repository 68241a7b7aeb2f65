"""Whether what a parity test compares depends on crowds."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.report import difference
from converters.verify import precision
from jaxft.models.paths import values
from tests.models.detectors import parity


def changed_by_crowds(both: parity.Pair, batch: parity.Batch, *, with_masks: bool = False) -> dict[str, set[str]]:
    """The terms of our loss that would be others were crowds taken for background, and for objects.

    What `parity.compare_losses` has compiled runs again, so that its equality with MMDetection is known to depend on them.
    """
    assert both.gradient is not None
    params = values(both.ours, nnx.Param)
    rest = {path: array for path, array in values(both.ours).items() if path not in params}
    targets = batch.targets(with_masks)
    with precision(both.dtype), parity.same_samples(both.dtype):
        images, sizes = jnp.asarray(batch.images, both.dtype), jnp.asarray(batch.sizes, jnp.int32)
        run = partial(both.gradient, params, rest, images, sizes)
        nobody = jnp.zeros_like(targets.ignored)
        right, background, objects = (
            run(one)[1]
            for one in (
                targets,
                targets._replace(ignored=nobody),
                targets._replace(ignored=nobody, valid=targets.valid | targets.ignored),
            )
        )
    found = {
        kind: {name for name in right if "loss" in name and difference(terms[name], np.asarray(right[name])) > 1e-5}
        for kind, terms in (("background", background), ("objects", objects))
    }
    print(found)
    return found
