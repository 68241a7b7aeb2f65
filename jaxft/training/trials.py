"""Parts of a run tried out on shapes, before anything is compiled: depths, and a user's own model and datasets."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxft.data.dataset import Dataset
from jaxft.errors import UserError
from jaxft.models.depth import depths
from jaxft.models.paths import values
from jaxft.tasks.task import Task
from jaxft.training.step import Batch, computing, predict_step, reseed


def block_depths(task: Task, model: nnx.Module, dataset: Dataset) -> dict[str, int]:
    """How deep the parameters of a model lie, abstract or not; see `jaxft.models.depth`."""
    evaluated = nnx.clone(model)
    evaluated.eval()
    padding = dataset.padding(int(dataset.buckets[0]))
    batch = _Asked({name: jnp.asarray(array)[None] for name, array in padding.items()})
    deep = depths(evaluated, lambda model: task.predict(model, batch))
    return {path: deep[path] for path in values(model, nnx.Param)}


def try_out(task: Task, model: nnx.Module, dataset: Dataset, precision: str) -> None:
    """Lets the task judge the arrays of a user's dataset, and the shapes of what a user's model says of an example,
    before anything is compiled."""
    evaluator, evaluated = task.evaluator(dataset), nnx.clone(model)
    evaluated.eval()
    batch = {name: np.asarray(array)[None] for name, array in dataset.evaluation(0).items()}
    step = predict_step(evaluated, lambda model, batch: task.predict(model, _Asked(batch)), precision)
    shapes = jax.eval_shape(step, values(evaluated), batch)
    evaluator.add(0, {name: np.ones(leaf.shape[1:], leaf.dtype) for name, leaf in shapes.items()})


def try_loss(task: Task, model: nnx.Module, dataset: Dataset, dtype: str) -> None:
    """The same of the task's loss of a training example."""
    trained = nnx.clone(model)
    trained.train()

    def loss(arrays: Mapping[str, Array], batch: Batch, key: Array) -> Array:
        filled_in = computing(trained, arrays, dtype)
        reseed(filled_in, key)
        return task.loss(filled_in, _Asked(batch))[0]

    example = dataset.training(0, np.random.default_rng(0))
    batch = {name: np.stack([np.asarray(array)] * 2) for name, array in example.items()}  # some losses mix them
    jax.eval_shape(loss, values(trained), batch, jax.eval_shape(lambda: jax.random.key(0)))


class _Asked(dict[str, Array]):
    """A batch of a user's dataset, which says what is missing."""

    def __missing__(self, name: str) -> Array:
        raise UserError(
            f"The task needs an array {name!r} of each example, but your dataset has {', '.join(self)}; add it, or "
            "give a loss of your own where training alone lacks it."
        )
