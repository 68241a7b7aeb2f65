"""Where in a photo a classifier looks: Grad-CAM."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxft.data.dataset import Dataset
from jaxft.models.paths import values
from jaxft.precision import dtype_of, precise
from jaxft.surgery.tracing import watched
from jaxft.tasks.task import Task
from jaxft.training.step import computing

BATCH = 8


class _Maps:
    """A watch that keeps the name of the last call that puts out a feature map `[N, H, W, C]` of several places."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.last: int | None = None

    def around(self, path: str, layer: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Calls a layer."""
        output = call(*arguments)
        if isinstance(output, jax.Array) and output.ndim == 4 and output.shape[1] * output.shape[2] > 1:
            self.last = len(self.calls)
        self.calls.append(path)
        return output


class _Moved:
    """A watch that adds `offset` to what a call puts out, the `number`-th that ends, and keeps the sum."""

    def __init__(self, number: int, offset: Array) -> None:
        self.number, self.offset, self.calls = number, offset, 0
        self.found: Array | None = None

    def around(self, path: str, layer: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Calls a layer."""
        output = call(*arguments)
        if self.calls == self.number:
            output = self.found = output + self.offset.astype(output.dtype)
        self.calls += 1
        return output


def heat_maps(
    task: Task, model: nnx.Module, dataset: Dataset, indices: Sequence[int], precision: str = "float32"
) -> Mapping[int, np.ndarray]:
    """How much each place of the last feature map speaks for the class that the model says: Grad-CAM.

    It is the sum over channels of activation times mean gradient of the logit, where that is positive (Selvaraju et al.
    2017, https://arxiv.org/abs/1610.02391, equations 1 and 2), divided by its largest value.

    Args:
        model: in evaluation mode.
        indices: positions in the dataset.

    Returns:
        float32 `[h, w]`, 0..1, of each example; nothing where the task has no logits, or the model no feature map.
    """
    if task.link is None or not indices:
        return {}
    examples = {index: dataset.evaluation(index) for index in dict.fromkeys(indices)}
    arrays, first = values(model), next(iter(examples.values()))
    batch = {name: jnp.zeros((BATCH, *np.shape(array)), np.asarray(array).dtype) for name, array in first.items()}

    def logits(arrays: Mapping[str, Array], batch: Mapping[str, Array], watch: Any) -> Array:
        return task.predict(watched(computing(model, arrays, dtype_of(precision)), watch), batch)["logits"]

    maps = _Maps()
    jax.eval_shape(lambda arrays, batch: logits(arrays, batch, maps), arrays, batch)
    if maps.last is None:
        return {}
    number = maps.last

    def moved(offset: Array, arrays: Mapping[str, Array], batch: Mapping[str, Array]) -> tuple[Array, Array]:
        watch = _Moved(number, offset)
        said = logits(arrays, batch, watch)
        assert watch.found is not None
        return said.max(-1).sum(), watch.found

    def heat(arrays: Mapping[str, Array], batch: Mapping[str, Array]) -> Array:
        shape = jax.eval_shape(moved, 0.0, arrays, batch)[1].shape
        gradient, found = jax.grad(moved, has_aux=True)(jnp.zeros(shape), arrays, batch)
        positive = jax.nn.relu((found * gradient.mean((1, 2), keepdims=True)).sum(-1).astype(jnp.float32))
        return positive / jnp.maximum(positive.max((1, 2), keepdims=True), jnp.finfo(jnp.float32).tiny)

    compiled, result = jax.jit(precise(heat, precision)), dict[int, np.ndarray]()
    names = list(examples)
    for start in range(0, len(names), BATCH):
        some = names[start : start + BATCH]
        filled = [examples[name] for name in (*some, *some[:1] * (BATCH - len(some)))]
        rows = {key: np.stack([np.asarray(example[key]) for example in filled]) for key in first}
        result |= dict(zip(some, np.asarray(compiled(arrays, rows)), strict=False))
    return result
