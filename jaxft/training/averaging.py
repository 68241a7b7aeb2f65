"""The mean of several models, and BatchNorm's statistics estimated anew for it.

What PyTorch's `torch.optim.swa_utils` does after a run: `AveragedModel` and `update_bn` (arXiv:1803.05407).
"""

from collections.abc import Iterable, Mapping
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxft.activity import doing
from jaxft.models.layers import BatchNorm
from jaxft.models.paths import modules, values
from jaxft.precision import precise
from jaxft.training.layout import fetch
from jaxft.training.setup import Setup
from jaxft.training.step import Batch, Compiled, key_data, loss_of_arrays

Arrays = dict[str, np.ndarray]


def mean_arrays(models: Iterable[Mapping[str, np.ndarray]]) -> Arrays:
    """The mean of arrays by path, one model at a time in memory, in float64 and then in their own type; whole numbers,
    such as counts, are the last model's."""
    sums, last, count = dict[str, np.ndarray](), Arrays(), 0
    for arrays in models:
        last, count = dict(arrays), count + 1
        for path, array in last.items():
            if jnp.issubdtype(array.dtype, jnp.floating):
                sums[path] = sums.get(path, 0.0) + array.astype(np.float64)
    return {path: (sums[path] / count).astype(a.dtype) if path in sums else a for path, a in last.items()}


def estimated_statistics(setup: Setup, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """BatchNorm's statistics of a model over one epoch of the training split, as training sees it: the means over the
    batches of their means and unbiased variances, which is `update_bn`'s momentum of None.

    Layers that the last phase lets use their running statistics keep them, and are not there.

    Args:
        arrays: the model's, by path.
    """
    stage = setup.stages[-1]
    template = setup.template(stage)
    layers = [path for path, module in modules(template) if isinstance(module, BatchNorm) and not module.running_only]
    if not layers:
        return {}
    for _, module in modules(template):
        if isinstance(module, BatchNorm):
            module.momentum = 1.0  # so that what it tracks are the batch's own statistics
    wanted = [f"{path}.{name}" for path in layers for name in ("mean", "var")]
    loss = loss_of_arrays(template, setup.task.loss, precision=setup.config.precision, gathered=setup.layout.gathered)
    parameters = values(template, nnx.Param).keys()

    def statistics(arrays: Mapping[str, Array], batch: Batch, key: Array) -> dict[str, Array]:
        params = {path: array for path, array in arrays.items() if path in parameters}
        stats = {path: array for path, array in arrays.items() if path not in parameters}
        _, (tracked, _) = loss(params, {}, stats, batch, jax.random.wrap_key_data(key), None)
        return {path: tracked[path] for path in wanted}

    compiled = Compiled(
        precise(statistics, setup.config.precision),
        budget=setup.shapes,
        compiling=lambda number: doing(f"compiling the statistics of BatchNorm, program {number}"),
    )
    placed, sums, steps = setup.layout.place(dict(arrays)), dict[str, np.ndarray](), setup.steps_per_epoch
    with setup.batches() as batches, doing("estimating the statistics of BatchNorm") as counted:
        for step, batch in enumerate(islice(batches, steps), 1):
            key = key_data((setup.config.seed + step) % 2**32)
            found = compiled(placed, setup.layout.batch(batch), key)
            for path, array in found.items():
                sums[path] = sums.get(path, 0.0) + fetch(array).astype(np.float64)
            counted(step, steps)
    counts = {f"{path}.num_batches_tracked": np.int32(steps) for path in layers}
    means = {path: (total / steps).astype(arrays[path].dtype) for path, total in sums.items()}
    return means | {path: np.asarray(count, arrays[path].dtype) for path, count in counts.items()}
