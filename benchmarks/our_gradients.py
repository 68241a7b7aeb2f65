"""Our gradients on the device beside the exact ones that `their_gradients` left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.gradients import PRECISIONS, errors
from converters import load_pretrained
from converters.files import read
from converters.verify import CLASSIFICATION as TASK
from converters.verify import as_torch, training
from jaxft.models import BUILDERS, abstract_model, initialize_missing
from jaxft.models.streams import initial_rngs


def gradients(model: str, folder: str) -> Callable[[], dict[str, Any]]:
    """The errors of a classifier's gradients under each precision of float32."""
    exact = dict(np.load(Path(folder) / "exact.npz"))
    batch = {name: jnp.asarray(array) for name, array in np.load(Path(folder) / "batch.npz").items()}
    network = abstract_model(model)
    load_pretrained(network, read(Path(folder) / "weights.pth"))
    initialize_missing(network, lambda: BUILDERS[model](rngs=initial_rngs(0)))
    found = {}
    for precision in PRECISIONS:
        step, state = training(network, TASK, (), precision)
        state, _ = step(state, batch)
        found[precision] = errors(as_torch(network, state.opt_state[0]), exact)
    return lambda: found
