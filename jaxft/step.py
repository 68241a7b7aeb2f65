"""One step of training and one of evaluation as pure functions on arrays, compiled once and never again unnoticed."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from jaxft.distributed import state_shardings
from jaxft.models.paths import filled, values

Arrays = dict[str, Array]
Batch = Mapping[str, Array]


class Task(Protocol):
    """What the steps need of a task."""

    def loss(self, model: Any, batch: Batch) -> tuple[Array, Arrays]: ...

    def predict(self, model: Any, batch: Batch) -> Any: ...


class Summed(Protocol):
    """What `eval_step` needs of a task."""

    def evaluate(self, model: Any, batch: Batch) -> Arrays: ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step reads and changes; parameters and statistics by dotted path.

    `params` are differentiated and updated, `frozen` are the other parameters. `healthy` turns false at the first loss
    or gradient that is not finite; from then on steps change nothing, so that the last good state stays.
    """

    step: Array
    healthy: Array
    params: Arrays
    frozen: Arrays
    stats: Arrays
    opt_state: optax.OptState

    @property
    def model(self) -> Arrays:
        """Every array that a model is filled with."""
        return self.params | self.frozen | self.stats


def initial_state(
    model: nnx.Module, is_frozen: Callable[[str], bool], optimizer: optax.GradientTransformation, step: int
) -> TrainState:
    """The state at the start of a phase: the model's arrays, cut in two, and a fresh optimizer."""
    parameters = values(model, nnx.Param)
    params = {path: value for path, value in parameters.items() if not is_frozen(path)}
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        healthy=jnp.asarray(True),
        params=params,
        frozen={path: value for path, value in parameters.items() if is_frozen(path)},
        stats=values(model, nnx.BatchStat),
        opt_state=optimizer.init(params),
    )


def train_step(
    template: nnx.Module,
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    dtype: str = "float32",
    parts: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Arrays]]:
    """A function (state, batch) -> (state, metrics of the batch), to be compiled.

    Args:
        template: the model in its training modes; its arrays do not matter.
        seed: with the step's number it decides all that is random, so that a resumed run draws the same.
        dtype: of the arithmetic; parameters of two and more axes are cast to it, gradients come back in their own type.
        parts: the batch goes through the model in so many parts, and the step is taken on their mean gradient.
    """

    def loss(params: Arrays, frozen: Arrays, stats: Arrays, batch: Batch, key: Array) -> tuple[Array, Any]:
        model = filled(template, narrowed(params | frozen, dtype) | stats)
        reseed(model, key)
        value, metrics = task.loss(model, batch)
        return value, (values(model, nnx.BatchStat), metrics)

    def gradient(state: TrainState, stats: Arrays, batch: Batch, key: Array) -> tuple[Arrays, Arrays, Arrays]:
        grads, (stats, metrics) = jax.grad(loss, has_aux=True)(state.params, state.frozen, stats, batch, key)
        return grads, stats, metrics

    def mean_gradient(state: TrainState, batch: Batch, key: Array) -> tuple[Arrays, Arrays, Arrays]:
        def body(stats: Arrays, item: tuple[Batch, Array]) -> tuple[Arrays, tuple[Arrays, Arrays]]:
            grads, stats, metrics = gradient(state, stats, *item)
            return stats, (grads, metrics)

        # Part i takes every `parts`-th row: a device keeps its own rows, and nothing travels.
        rows = {name: jnp.swapaxes(rows.reshape(-1, parts, *rows.shape[1:]), 0, 1) for name, rows in batch.items()}
        stats, (grads, metrics) = jax.lax.scan(body, state.stats, (rows, jax.random.split(key, parts)))
        return (
            jax.tree.map(lambda grad: grad.mean(0), grads),
            stats,
            jax.tree.map(lambda metric: metric.mean(), metrics),
        )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Arrays]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if parts == 1:
            grads, stats, metrics = gradient(state, state.stats, batch, key)
        else:
            grads, stats, metrics = mean_gradient(state, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        healthy = state.healthy & jnp.isfinite(metrics["loss"]) & jnp.isfinite(optax.tree.norm(grads))
        new = dataclasses.replace(state, step=state.step + 1, params=params, stats=stats, opt_state=opt_state)
        kept = jax.tree.map(lambda after, before: jnp.where(healthy, after, before), new, state)
        return dataclasses.replace(kept, frozen=state.frozen, healthy=healthy), metrics

    return step


def eval_step(
    template: nnx.Module, task: Summed, dtype: str = "float32"
) -> Callable[[Mapping[str, Array], Batch], Arrays]:
    """A function (model's arrays, batch) -> sums over the batch, to be compiled. `template` is in evaluation mode."""

    def step(arrays: Mapping[str, Array], batch: Batch) -> Arrays:
        return task.evaluate(filled(template, narrowed(arrays, dtype)), batch)

    return step


def predict_step(
    template: nnx.Module, task: Task, dtype: str = "float32"
) -> Callable[[Mapping[str, Array], Batch], Any]:
    """A function (model's arrays, batch) -> the task's prediction, to be compiled. `template` is in evaluation mode."""

    def step(arrays: Mapping[str, Array], batch: Batch) -> Any:
        return task.predict(filled(template, narrowed(arrays, dtype)), batch)

    return step


def narrowed(arrays: Mapping[str, Array], dtype: str) -> Arrays:
    """Kernels in the dtype of the arithmetic; one-dimensional parameters, statistics and indices as they are."""
    if dtype == "float32":
        return dict(arrays)
    return {
        path: value.astype(dtype) if value.ndim > 1 and jnp.issubdtype(value.dtype, jnp.floating) else value
        for path, value in arrays.items()
    }


def reseed(model: nnx.Module, key: Array) -> None:
    """Gives every random stream of a model (dropout, drop-path) a key of its own that depends on `key` and its path."""
    for path, node in nnx.iter_graph(model):
        if isinstance(node, nnx.RngStream):
            node.key.set_value(jax.random.fold_in(key, zlib.crc32(repr(path).encode())))
            node.count.set_value(jnp.zeros((), jnp.uint32))


class RecompilationError(RuntimeError):
    """A step met a batch of another shape than it was compiled for."""


class Compiled:
    """A function of (state, batch) that is compiled once for each shape of batch, at most `budget` times.

    Args:
        function: pure; its first result must have the structure of its first argument where `updates_state`.
        updates_state: whether the memory of the first argument is given to the first result.
        budget: how many shapes of batch are expected.
    """

    def __init__(
        self, function: Callable, mesh: Mesh, *, fsdp: bool = False, updates_state: bool = False, budget: int = 1
    ) -> None:
        self._function, self._mesh, self._fsdp, self._updates_state = function, mesh, fsdp, updates_state
        self._budget = budget
        self._programs: dict[tuple, Callable] = {}

    @property
    def compilations(self) -> int:
        """How often the function was compiled."""
        return len(self._programs)

    def __call__(self, state: Any, batch: Batch) -> Any:
        """Runs the function.

        Raises:
            RecompilationError: the batch has a shape that the budget does not cover; the message names the array.
        """
        shapes = tuple((name, batch[name].shape, str(batch[name].dtype)) for name in sorted(batch))
        if shapes not in self._programs:
            self._programs[shapes] = self._compile(shapes, state, batch)
        return self._programs[shapes](state, batch)

    def _compile(self, shapes: tuple, state: Any, batch: Batch) -> Callable:
        if self.compilations >= self._budget:
            known = {item for seen in self._programs for item in seen}
            new = ", ".join(
                f"{name} {shape} {dtype}" for name, shape, dtype in shapes if (name, shape, dtype) not in known
            )
            raise RecompilationError(
                f"The step was compiled {self.compilations} time(s), as expected, and now meets the new shape {new}. "
                "Pad the data to fixed shapes."
            )
        if not self._updates_state:
            return jax.jit(self._function).lower(state, batch).compile()
        shardings = state_shardings(state, self._mesh, self._fsdp)
        jitted = jax.jit(self._function, donate_argnums=0, out_shardings=(shardings, None))
        return jitted.lower(state, batch).compile()
